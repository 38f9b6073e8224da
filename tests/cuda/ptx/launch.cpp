// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "cuda/ptx/launch.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>

#include "cuda/ptx/operand.hpp"

namespace ptx {
namespace {

struct Kernels {
  std::map<std::string, std::string> texts;
  std::map<std::string, std::unique_ptr<const Kernel>> decoded;
  std::map<std::string, std::size_t> runs;
  std::function<std::string(std::string)> edit;

  Kernels() {
    const char* const paths = std::getenv("DROPBP_PTX");
    if (paths == nullptr || *paths == '\0')
      throw std::runtime_error("DROPBP_PTX must name the files with the kernels' PTX");
    std::istringstream list(paths);
    for (std::string path; std::getline(list, path, ':');) add(path);
  }
  ~Kernels() {
    std::size_t run = 0;
    for (const auto& [name, count] : runs) {
      if (count == 0) std::cout << "no test runs the kernel " << name << '\n';
      run += count > 0;
    }
    std::cout << run << " of " << runs.size() << " kernels were run\n";
  }
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;

 private:
  // Keeps each text from the line after ".entry" to the brace that ends the body.
  void add(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error("there is no PTX at " + path);
    std::string name, text;
    for (std::string line; std::getline(file, line);) {
      if (const auto at = line.find(".entry "); at != line.npos) {
        name = line.substr(at + 7, line.find('(') - at - 7);
        text.clear();
      } else if (!name.empty()) {
        text += line + '\n';
        if (line != "}") continue;
        runs.try_emplace(name, 0);
        texts.try_emplace(name, text);
        name.clear();
      }
    }
  }
};

Kernels& all_kernels() {
  static Kernels all;
  return all;
}

std::string readable(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), &std::free);
  return status == 0 ? text.get() : name;
}

// ---- a warp

// Runs the lanes that are at the lowest instruction, until the warp waits at a barrier or has left.
// Lanes that went apart come together again where the lower ones reach the others.
class WarpRun {
 public:
  explicit WarpRun(Warp& warp) : warp_(warp), code_(warp.launch.kernel.code) {}

  void run() {
    auto& groups = warp_.groups;
    while (!groups.empty()) {
      merge();
      auto lowest = groups.end();
      for (auto group = groups.begin(); group != groups.end(); ++group)
        if (!group->waits && (lowest == groups.end() || group->at < lowest->at)) lowest = group;
      if (lowest == groups.end()) return require_one_place();
      Group group = *lowest;
      groups.erase(lowest);
      std::uint32_t limit = std::numeric_limits<std::uint32_t>::max();
      for (const Group& other : groups)
        if (!other.waits) limit = std::min(limit, other.at);
      advance(group, limit);
      if (group.lanes != 0) groups.push_back(group);
    }
  }

 private:
  void merge() {
    auto& groups = warp_.groups;
    for (std::size_t i = 0; i < groups.size(); ++i)
      for (std::size_t j = groups.size(); --j > i;) {
        if (groups[j].at != groups[i].at) continue;
        groups[i].lanes |= groups[j].lanes;
        groups[i].waits = false;
        groups.erase(groups.begin() + static_cast<std::ptrdiff_t>(j));
      }
  }

  // All lanes wait: for a barrier of the block, or forever.
  void require_one_place() const {
    const Group& first = warp_.groups.front();
    if (warp_.groups.size() == 1 && first.lanes == all_lanes &&
        code_[first.at].flow == Flow::barrier)
      return;
    std::string lines;
    for (const Group& group : warp_.groups)
      lines += (lines.empty() ? "" : " and ") + std::to_string(code_[group.at].line + 1);
    throw std::runtime_error("lanes of a warp wait for the others forever, in lines " + lines);
  }

  // Up to a place where the group waits or where other lanes are.
  void advance(Group& group, std::uint32_t limit) {
    while (group.at < limit) {
      const Instruction& instruction = code_[group.at];
      warp_.launch.line = instruction.line;
      std::uint32_t lanes = group.lanes;
      if (instruction.has_guard) {
        const std::uint32_t guard = get_predicate(warp_, instruction.guard);
        lanes &= instruction.guard_is_negated ? ~guard : guard;
      }
      switch (instruction.flow) {
        case Flow::next:
          if (lanes != 0) instruction.run(warp_, instruction, lanes);
          break;
        case Flow::together:
        case Flow::barrier:
          if (lanes != all_lanes || instruction.flow == Flow::barrier) {
            group.waits = true;
            return;
          }
          instruction.run(warp_, instruction, lanes);
          break;
        case Flow::branch:
          if (lanes == group.lanes) {
            group.at = instruction.target;
            continue;
          }
          if (lanes != 0) {
            warp_.groups.push_back({instruction.target, lanes});
            group.lanes &= ~lanes;
            limit = std::min(limit, instruction.target);
          }
          break;
        case Flow::leave:
          group.lanes &= ~lanes;
          if (group.lanes == 0) return;
          break;
      }
      ++group.at;
    }
  }

  Warp& warp_;
  const std::vector<Instruction>& code_;
};

// ---- a launch

class LaunchRun {
 public:
  LaunchRun(const Kernel& kernel, dropbp::cuda::Grid grid, unsigned threads, std::uint64_t seed,
            const std::vector<Argument>& arguments)
      : launch_{kernel, grid}, random_(static_cast<unsigned>(seed * 2654435761u + 1)) {
    if (arguments.size() != kernel.parameters.size())
      throw std::runtime_error("its launch gives " + std::to_string(arguments.size()) +
                               " arguments, it has " + std::to_string(kernel.parameters.size()));
    launch_.parameters.resize(kernel.parameter_bytes);
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      if (arguments[i].bytes != kernel.parameters[i].bytes)
        throw std::runtime_error("argument " + std::to_string(i) + " has " +
                                 std::to_string(arguments[i].bytes) + " bytes, not " +
                                 std::to_string(kernel.parameters[i].bytes));
      std::memcpy(launch_.parameters.data() + kernel.parameters[i].offset, arguments[i].data,
                  arguments[i].bytes);
    }
    for (std::uint32_t i = 0; i < threads / 32; ++i) {
      warps_.push_back({launch_, i, kernel.registers});
      Lanes<std::uint32_t> thread, lane, lower;
      for (std::uint32_t j = 0; j < 32; ++j)
        thread[j] = 32 * i + j, lane[j] = j, lower[j] = (std::uint32_t{1} << j) - 1;
      set("%tid.x", thread), set("%laneid", lane), set("%lanemask_lt", lower);
      set("%ntid.x", threads), set("%nctaid.x", grid.x), set("%nctaid.y", grid.y);
      set("%nctaid.z", grid.z);
    }
  }

  void run() {
    const auto& grid = launch_.grid;
    std::vector<std::uint32_t> order(std::size_t{grid.x} * grid.y * grid.z);
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), random_);
    for (const std::uint32_t block : order) {
      try {
        run_block(block);
      } catch (const std::runtime_error& error) {
        throw std::runtime_error("block " + std::to_string(block) + ", line " +
                                 std::to_string(launch_.line + 1) + " `" +
                                 launch_.kernel.lines[launch_.line] + "`: " + error.what());
      }
    }
  }

 private:
  // Of the warp that was added last.
  void set(std::string_view special, const Lanes<std::uint32_t>& values) {
    set(warps_.back(), special, values);
  }
  void set(std::string_view special, std::uint32_t value) { set(warps_.back(), special, value); }
  static void set(Warp& warp, std::string_view special, const Lanes<std::uint32_t>& values) {
    const auto found = std::find(special_names.begin(), special_names.end(), special);
    put(warp,
        warp.launch.kernel.specials.at(static_cast<std::size_t>(found - special_names.begin())),
        values, all_lanes);
  }
  static void set(Warp& warp, std::string_view special, std::uint32_t value) {
    Lanes<std::uint32_t> values;
    values.fill(value);
    set(warp, special, values);
  }

  void run_block(std::uint32_t block) {
    const auto& grid = launch_.grid;
    launch_.block_number = block;
    launch_.shared.assign(grid.shared_bytes, std::byte{0xFF});
    launch_.shared_shadow = Shadow(grid.shared_bytes);
    for (Warp& warp : warps_) {
      set(warp, "%ctaid.x", block % grid.x);
      set(warp, "%ctaid.y", block / grid.x % grid.y);
      set(warp, "%ctaid.z", block / grid.x / grid.y);
      warp.groups = {{0, all_lanes}};
      warp.time = 0;
    }
    std::vector<std::size_t> order(warps_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (;;) {
      std::shuffle(order.begin(), order.end(), random_);
      for (const std::size_t i : order) WarpRun(warps_[i]).run();
      if (std::all_of(warps_.begin(), warps_.end(), [](const Warp& w) { return w.groups.empty(); }))
        break;
      pass_barrier();
    }
    for (Warp& warp : warps_) {
      warp.commit_copies();
      warp.wait_for_copies(0);
    }
  }

  void pass_barrier() {
    for (const Warp& warp : warps_) {
      if (warp.groups.empty())
        throw std::runtime_error("threads wait at a barrier that others have passed by");
      if (warp.groups.front().at != warps_.front().groups.front().at)
        throw std::runtime_error("threads wait at different barriers");
    }
    for (Warp& warp : warps_) {
      Group& group = warp.groups.front();
      group.waits = false;
      ++group.at;
      warp.time = (warp.time / Access::barrier + 1) * Access::barrier;
    }
  }

  Launch launch_;
  std::vector<Warp> warps_;
  std::minstd_rand random_;
};

}  // namespace

Edited::Edited(std::function<std::string(std::string)> edit) {
  all_kernels().edit = std::move(edit);
}
Edited::~Edited() { all_kernels().edit = nullptr; }

void run(const Kernel& kernel, dropbp::cuda::Grid grid, unsigned threads, std::uint64_t seed,
         const std::vector<Argument>& arguments) {
  LaunchRun(kernel, grid, threads, seed, arguments).run();
}

void run(const std::string& entry, dropbp::cuda::Grid grid, unsigned threads, std::uint64_t seed,
         const std::vector<Argument>& arguments) {
  Kernels& all = all_kernels();
  const auto text = all.texts.find(entry);
  if (text == all.texts.end()) throw std::runtime_error("there is no PTX of " + readable(entry));
  try {
    if (all.edit) {
      run(Kernel(entry, all.edit(text->second)), grid, threads, seed, arguments);
      return;
    }
    auto& kernel = all.decoded[entry];
    if (kernel == nullptr) kernel = std::make_unique<const Kernel>(entry, text->second);
    run(*kernel, grid, threads, seed, arguments);
    ++all.runs[entry];
  } catch (const std::runtime_error& error) {
    throw std::runtime_error("kernel " + readable(entry) + ": " + error.what());
  }
}

}  // namespace ptx
