// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "support/simt.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string_view>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define DROPBP_FIBERS_UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DROPBP_FIBERS_UNDER_ASAN 1
#endif
#endif
#if defined(DROPBP_FIBERS_UNDER_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

// clang++ gives each fiber a second, fake stack of megabytes to detect uses of locals after their
// function has returned. A block of 256 threads would spend its time allocating and freeing them.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "detect_stack_use_after_return=0"; }
#endif

#if defined(__x86_64__)
// Saves the registers that a call preserves, stores the stack pointer in *from, and continues where
// `to` was left. ucontext would make two system calls per switch.
extern "C" void dropbp_switch_fiber(void** from, void* to);
asm(R"(
.text
.globl dropbp_switch_fiber
.type dropbp_switch_fiber,@function
dropbp_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size dropbp_switch_fiber,.-dropbp_switch_fiber
)");
#else
#include <ucontext.h>
#endif

namespace simt {
namespace {

constexpr std::size_t stack_bytes = 128 * 1024;

// Keeps the stacks for the next block. A thousand of them take a hundred megabytes of addresses,
// but touch little memory.
class Stacks {
 public:
  std::byte* at(std::size_t i) {
    while (stacks_.size() <= i)
      stacks_.push_back(std::make_unique_for_overwrite<std::byte[]>(stack_bytes));
    return stacks_[i].get();
  }

 private:
  std::vector<std::unique_ptr<std::byte[]>> stacks_;
};

Stacks& stacks() {
  static Stacks all;
  return all;
}

enum class State { runnable, at_barrier, at_warp_operation, done };
enum class Operation { sync_warp, exchange, mma, load_matrices, load_transposed };

struct Copy {
  void* to;
  const void* from;  // null: zeros

  void run() const {
    if (from == nullptr)
      std::memset(to, 0, 16);
    else
      std::memcpy(to, from, 16);
  }
};

struct Fiber {
  State state = State::runnable;
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context = {};
#endif
  void* fake_stack = nullptr;  // AddressSanitizer's fake stack

  const char* barrier_file = nullptr;
  int barrier_line = 0;
  Operation operation = Operation::sync_warp;
  std::uint64_t bits = 0;
  unsigned lane = 0;
  std::array<std::uint32_t, 4> a = {};
  std::array<std::uint32_t, 2> b = {};
  std::array<float, 4> d = {};
  const void* row = nullptr;  // of a matrix

  std::vector<Copy> uncommitted;
  std::vector<std::vector<Copy>> groups;
};

// One access to global memory.
struct Access {
  std::uintptr_t begin, end;
  std::uint64_t block;
  bool written;
};

// The largest ends of the accesses so far: of the block that reaches furthest, and of all other
// blocks.
struct Reach {
  std::uintptr_t end = 0, other_end = 0;
  std::uint64_t block = 0;

  void add(const Access& access) {
    if (access.block == block) {
      end = std::max(end, access.end);
    } else if (access.end > end) {
      other_end = end, end = access.end, block = access.block;
    } else {
      other_end = std::max(other_end, access.end);
    }
  }
  bool overlaps(const Access& access) const {
    return (access.block == block ? other_end : end) > access.begin;
  }
};

// Returns whether a block touches memory that another block writes.
bool is_race(std::vector<Access>& accesses) {
  std::sort(accesses.begin(), accesses.end(),
            [](const Access& a, const Access& b) { return a.begin < b.begin; });
  Reach reads, writes;
  for (const Access& access : accesses) {
    if (writes.overlaps(access) || (access.written && reads.overlaps(access))) return true;
    (access.written ? writes : reads).add(access);
  }
  return false;
}

float upper(std::uint32_t pair, unsigned half) {
  return dropbp::cuda::to_float(dropbp::BFloat16{static_cast<std::uint16_t>(pair >> (16 * half))});
}

}  // namespace

class Block {
 public:
  Block(const char* name, dropbp::cuda::Grid grid, std::array<unsigned, 3> index, unsigned threads,
        std::uint64_t seed, const std::function<void(HostContext)>& body,
        std::vector<Access>& accesses)
      : name_(name),
        grid_(grid),
        index_(index),
        body_(body),
        accesses_(accesses),
        fibers_(threads),
        random_(seed),
        shared_(static_cast<std::byte*>(::operator new(grid.shared_bytes, std::align_val_t{128}))) {
    std::memset(shared_, 0xFF, grid.shared_bytes);
    for (unsigned i = 0; i < threads; ++i) prepare(i);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() {
    ::operator delete(shared_, std::align_val_t{128});
#if defined(DROPBP_FIBERS_UNDER_ASAN)
    // Forget what a failure left on the stacks, before they are reused.
    for (unsigned i = 0; i < fibers_.size(); ++i)
      if (fibers_[i].state != State::done)
        __asan_unpoison_memory_region(stacks().at(i), stack_bytes);
#endif
  }

  void run() {
    const auto warps = static_cast<unsigned>(fibers_.size() / 32);
    std::vector<unsigned> order(warps);
    std::iota(order.begin(), order.end(), 0u);
    for (;;) {
      std::shuffle(order.begin(), order.end(), random_);
      bool moved = false;
      for (const unsigned warp : order) moved = run_warp(warp) || moved;
      if (!failure_.empty())
        throw std::runtime_error("kernel " + std::string(name_) + ": " + failure_);
      const auto is = [](State state) {
        return [state](const Fiber& fiber) { return fiber.state == state; };
      };
      if (std::all_of(fibers_.begin(), fibers_.end(), is(State::done))) return;
      if (std::all_of(fibers_.begin(), fibers_.end(), is(State::at_barrier))) {
        require_same_barrier();
        for (Fiber& fiber : fibers_) fiber.state = State::runnable;
        continue;
      }
      if (moved) continue;
      const auto count = [&](State state) {
        return std::to_string(std::count_if(fibers_.begin(), fibers_.end(), is(state)));
      };
      throw std::runtime_error(
          "kernel " + std::string(name_) + ": its threads wait for each other forever: " +
          count(State::at_barrier) + " at a barrier, " + count(State::at_warp_operation) +
          " at an operation of a warp, " + count(State::done) + " have left");
    }
  }

  unsigned index(int axis) const { return index_[static_cast<std::size_t>(axis)]; }
  unsigned blocks(int axis) const { return axis == 0 ? grid_.x : axis == 1 ? grid_.y : grid_.z; }
  std::byte* shared() const { return shared_; }
  Fiber& fiber(unsigned thread) { return fibers_[thread]; }

  // The calling fiber waits in this state until it is made runnable.
  void wait(unsigned thread, State state) {
    fibers_[thread].state = state;
    leave(thread);
  }

  void note(const void* p, std::size_t bytes, bool written) {
    if (std::uint64_t{grid_.x} * grid_.y * grid_.z == 1) return;
    const auto begin = reinterpret_cast<std::uintptr_t>(p);
    accesses_.push_back({begin, begin + bytes,
                         (std::uint64_t{index_[2]} * grid_.y + index_[1]) * grid_.x + index_[0],
                         written});
  }

 private:
  bool run_warp(unsigned warp) {
    Fiber* const lanes = &fibers_[std::size_t{32} * warp];
    bool moved = false;
    for (;;) {
      bool again = false;
      std::array<unsigned, 32> order;
      std::iota(order.begin(), order.end(), 0u);
      std::shuffle(order.begin(), order.end(), random_);
      for (const unsigned lane : order) {
        if (lanes[lane].state != State::runnable) continue;
        enter(32 * warp + lane);
        if (!failure_.empty()) return true;
        again = true;
      }
      if (std::all_of(lanes, lanes + 32,
                      [](const Fiber& f) { return f.state == State::at_warp_operation; })) {
        operate(warp, lanes);
        if (!failure_.empty()) return true;
        again = true;
      }
      if (!again) return moved;
      moved = true;
    }
  }

  void require_same_barrier() const {
    const Fiber& first = fibers_[0];
    for (const Fiber& fiber : fibers_)
      if (fiber.barrier_line != first.barrier_line ||
          std::string_view(fiber.barrier_file) != first.barrier_file)
        throw std::runtime_error(
            "kernel " + std::string(name_) + ": its threads wait at different barriers, in lines " +
            std::to_string(std::min(first.barrier_line, fiber.barrier_line)) + " and " +
            std::to_string(std::max(first.barrier_line, fiber.barrier_line)));
  }

  void operate(unsigned warp, Fiber* lanes) {
    if (!std::all_of(lanes, lanes + 32,
                     [&](const Fiber& f) { return f.operation == lanes[0].operation; })) {
      failure_ = "the lanes of warp " + std::to_string(warp) + " execute different operations";
      return;
    }
    if (lanes[0].operation == Operation::exchange) {
      std::array<std::uint64_t, 32> given;
      for (unsigned i = 0; i < 32; ++i) given[i] = lanes[i].bits;
      for (unsigned i = 0; i < 32; ++i) lanes[i].bits = given[lanes[i].lane];
    } else if (lanes[0].operation == Operation::mma) {
      multiply(lanes);
    } else if (lanes[0].operation == Operation::load_matrices ||
               lanes[0].operation == Operation::load_transposed) {
      load_matrices(lanes, lanes[0].operation == Operation::load_transposed);
    }
    for (unsigned i = 0; i < 32; ++i) lanes[i].state = State::runnable;
  }

  // mma.m16n8k16 for .bf16 with the fragments of the PTX ISA: lane = 4 * group + member.
  static void multiply(Fiber* lanes) {
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < 32; ++lane) {
      const unsigned group = lane / 4, column = lane % 4 * 2;
      for (unsigned half = 0; half < 2; ++half) {
        a[group][column + half] = upper(lanes[lane].a[0], half);
        a[group + 8][column + half] = upper(lanes[lane].a[1], half);
        a[group][column + 8 + half] = upper(lanes[lane].a[2], half);
        a[group + 8][column + 8 + half] = upper(lanes[lane].a[3], half);
        b[column + half][group] = upper(lanes[lane].b[0], half);
        b[column + 8 + half][group] = upper(lanes[lane].b[1], half);
      }
    }
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = lanes[lane].d[i];
        for (unsigned k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
        lanes[lane].d[i] = sum;
      }
  }

  // ldmatrix.x4: lane 8 i + j gives row j of matrix i, and receives two neighbouring elements of a
  // row of each matrix, or of a column.
  static void load_matrices(Fiber* lanes, bool transposed) {
    for (unsigned i = 0; i < 4; ++i) {
      std::array<std::array<std::uint16_t, 8>, 8> matrix;
      for (unsigned j = 0; j < 8; ++j) std::memcpy(&matrix[j], lanes[8 * i + j].row, 16);
      for (unsigned lane = 0; lane < 32; ++lane) {
        const unsigned major = lane / 4, minor = lane % 4 * 2;
        const std::uint32_t first = transposed ? matrix[minor][major] : matrix[major][minor],
                            second =
                                transposed ? matrix[minor + 1][major] : matrix[major][minor + 1];
        lanes[lane].a[i] = first | second << 16;
      }
    }
  }

  // ---- switching

  static void entry() {
    Block& block = *starting;
    const unsigned thread = starting_thread;
#if defined(DROPBP_FIBERS_UNDER_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_bottom_, &block.scheduler_size_);
#endif
    try {
      block.body_(HostContext(block, thread));
      for (const auto& group : block.fibers_[thread].groups)
        for (const Copy& copy : group) copy.run();
    } catch (const std::exception& error) {
      block.failure_ = "thread " + std::to_string(thread) + ": " + error.what();
    } catch (...) {
      block.failure_ =
          "thread " + std::to_string(thread) + ": an exception that is not a std::exception";
    }
    block.end(thread);
  }

  [[noreturn]] void end(unsigned thread) {
    fibers_[thread].state = State::done;
#if defined(DROPBP_FIBERS_UNDER_ASAN)
    __sanitizer_start_switch_fiber(nullptr, scheduler_bottom_, scheduler_size_);
#endif
    swap_out(thread);
    std::terminate();
  }

  void leave(unsigned thread) {
#if defined(DROPBP_FIBERS_UNDER_ASAN)
    __sanitizer_start_switch_fiber(&fibers_[thread].fake_stack, scheduler_bottom_, scheduler_size_);
#endif
    swap_out(thread);
#if defined(DROPBP_FIBERS_UNDER_ASAN)
    __sanitizer_finish_switch_fiber(fibers_[thread].fake_stack, &scheduler_bottom_,
                                    &scheduler_size_);
#endif
  }

  void enter(unsigned thread) {
    starting = this;
    starting_thread = thread;
#if defined(DROPBP_FIBERS_UNDER_ASAN)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, stacks().at(thread), stack_bytes);
#endif
    swap_in(thread);
#if defined(DROPBP_FIBERS_UNDER_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

#if defined(__x86_64__)
  void prepare(unsigned thread) {
    std::byte* const stack = stacks().at(thread);
    // Prepare the stack as dropbp_switch_fiber would leave it: six registers, the return address,
    // and the alignment of a called function.
    auto top = reinterpret_cast<std::uintptr_t>(stack + stack_bytes) / 16 * 16 - 24;
    auto* const words = reinterpret_cast<void**>(top) - 7;
    std::fill_n(words, 6, nullptr);
    words[6] = reinterpret_cast<void*>(&Block::entry);
    words[7] = nullptr;
    fibers_[thread].stack_pointer = words;
  }
  void swap_in(unsigned thread) { dropbp_switch_fiber(&scheduler_, fibers_[thread].stack_pointer); }
  void swap_out(unsigned thread) {
    dropbp_switch_fiber(&fibers_[thread].stack_pointer, scheduler_);
  }
  void* scheduler_ = nullptr;
#else
  void prepare(unsigned thread) {
    ucontext_t& context = fibers_[thread].context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks().at(thread);
    context.uc_stack.ss_size = stack_bytes;
    context.uc_link = nullptr;
    makecontext(&context, &Block::entry, 0);
  }
  void swap_in(unsigned thread) { swapcontext(&scheduler_, &fibers_[thread].context); }
  void swap_out(unsigned thread) { swapcontext(&fibers_[thread].context, &scheduler_); }
  ucontext_t scheduler_ = {};
#endif

  static inline Block* starting = nullptr;
  static inline unsigned starting_thread = 0;

  const char* name_;
  dropbp::cuda::Grid grid_;
  std::array<unsigned, 3> index_;
  const std::function<void(HostContext)>& body_;
  std::vector<Access>& accesses_;
  std::vector<Fiber> fibers_;
  std::minstd_rand random_;
  std::byte* shared_;
  std::string failure_;
  [[maybe_unused]] const void* scheduler_bottom_ = nullptr;  // for AddressSanitizer, as is the size
  [[maybe_unused]] std::size_t scheduler_size_ = 0;
};

unsigned HostContext::block(int axis) const { return block_->index(axis); }
unsigned HostContext::blocks(int axis) const { return block_->blocks(axis); }
std::byte* HostContext::shared() const { return block_->shared(); }
void HostContext::sync(const char* file, int line) const {
  block_->fiber(thread_).barrier_file = file;
  block_->fiber(thread_).barrier_line = line;
  block_->wait(thread_, State::at_barrier);
}

void HostContext::note(const void* p, std::size_t bytes, bool written) const {
  block_->note(p, bytes, written);
}

void HostContext::sync_warp() const {
  block_->fiber(thread_).operation = Operation::sync_warp;
  block_->wait(thread_, State::at_warp_operation);
}

std::uint64_t HostContext::exchange(std::uint64_t bits, unsigned lane) const {
  Fiber& fiber = block_->fiber(thread_);
  fiber.operation = Operation::exchange;
  fiber.bits = bits;
  fiber.lane = lane;
  block_->wait(thread_, State::at_warp_operation);
  return fiber.bits;
}

namespace {

// `exact`, off by up to `units` in the last place. `seed` is of the arguments.
float with_error(double exact, int units, std::uint32_t seed) {
  const auto value = static_cast<float>(exact);
  if (!std::isfinite(value) || value == 0.0f) return value;
  std::uint32_t hash = seed * 2654435761u;
  hash = (hash ^ hash >> 15) * 2246822519u;
  // A third each: as large as it may be, as small, and exact.
  const double direction = static_cast<double>(hash >> 16 & 3) - 1.0;
  const double last = std::ldexp(1.0, std::max(std::ilogb(exact), -126) - 23);
  return static_cast<float>(exact + std::clamp(direction, -1.0, 1.0) * (units - 0.5) * last);
}

}  // namespace

float HostContext::fast_exp(float x) const {
  if (!std::isfinite(x)) return std::exp(x);
  return with_error(std::exp(static_cast<double>(x)),
                    2 + static_cast<int>(std::min(1.173 * std::abs(static_cast<double>(x)), 200.0)),
                    std::bit_cast<std::uint32_t>(x));
}

float HostContext::fast_divide(float x, float y) const {
  const float size = std::abs(y);
  if (size > 0x1p126f && std::isfinite(y)) return std::isinf(x) ? std::nanf("") : 0.0f * y;
  return with_error(static_cast<double>(x) / static_cast<double>(y), 2,
                    std::bit_cast<std::uint32_t>(x) ^ 31 * std::bit_cast<std::uint32_t>(y));
}

float HostContext::fast_exp2(float x) const {
  if (!std::isfinite(x)) return std::exp2(x);
  const float value =
      with_error(std::exp2(static_cast<double>(x)), 2, std::bit_cast<std::uint32_t>(x));
  return value < 0x1p-126f ? 0.0f : value;
}

void HostContext::mma_bf16(float (&d)[4], const std::uint32_t (&a)[4],
                           const std::uint32_t (&b)[2]) const {
  Fiber& fiber = block_->fiber(thread_);
  fiber.operation = Operation::mma;
  std::copy_n(a, 4, fiber.a.begin());
  std::copy_n(b, 2, fiber.b.begin());
  std::copy_n(d, 4, fiber.d.begin());
  block_->wait(thread_, State::at_warp_operation);
  std::copy_n(fiber.d.begin(), 4, d);
}

void HostContext::load_matrices(std::uint32_t (&d)[4], const void* row, bool transposed) const {
  require_aligned(row, 16, "a row of a matrix in shared memory");
  Fiber& fiber = block_->fiber(thread_);
  fiber.operation = transposed ? Operation::load_transposed : Operation::load_matrices;
  fiber.row = row;
  block_->wait(thread_, State::at_warp_operation);
  std::copy_n(fiber.a.begin(), 4, d);
}
void HostContext::load_matrices(std::uint32_t (&d)[4], const void* row) const {
  load_matrices(d, row, false);
}
void HostContext::load_matrices_transposed(std::uint32_t (&d)[4], const void* row) const {
  load_matrices(d, row, true);
}

void HostContext::async_copy_16(void* shared, const void* global, bool present) const {
  require_aligned(shared, 16, "an asynchronous copy");
  if (present) require_aligned(global, 16, "an asynchronous copy");
  block_->fiber(thread_).uncommitted.push_back({shared, present ? global : nullptr});
}

void HostContext::async_commit() const {
  Fiber& fiber = block_->fiber(thread_);
  fiber.groups.push_back(std::move(fiber.uncommitted));
  fiber.uncommitted.clear();
}

// Copies as late as the rules allow: at the wait.
void HostContext::async_wait_for(unsigned groups) const {
  auto& pending = block_->fiber(thread_).groups;
  while (pending.size() > groups) {
    for (const Copy& copy : pending.front()) copy.run();
    pending.erase(pending.begin());
  }
}

void HostContext::require_aligned(const void* p, std::size_t bytes, const char* what) const {
  if (reinterpret_cast<std::uintptr_t>(p) % bytes == 0) return;
  throw std::runtime_error(std::string(what) + " of " + std::to_string(bytes) +
                           " bytes must be aligned to as many, but its address is " +
                           std::to_string(reinterpret_cast<std::uintptr_t>(p) % 16) +
                           " bytes past a multiple of 16");
}

std::map<std::string, std::size_t>& kernels_run() {
  struct Counts : std::map<std::string, std::size_t> {
    ~Counts() {
      const char* const path = std::getenv("DROPBP_EMULATED");
      if (path == nullptr) return;
      std::ofstream file(path, std::ios::app);
      for (const auto& [name, count] : *this) file << name << '\n';
    }
  };
  static Counts counts;
  return counts;
}

void run(const char* name, dropbp::cuda::Grid grid, unsigned threads, std::uint64_t seed,
         const std::function<void(HostContext)>& body) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0)
    throw std::runtime_error("kernel " + std::string(name) +
                             ": a grid must have a block, but one of its sizes is 0");
  ++kernels_run()[name];
  std::vector<std::uint64_t> order(std::uint64_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), std::uint64_t{0});
  std::minstd_rand random(static_cast<unsigned>(seed * 2654435761u + 1));
  std::shuffle(order.begin(), order.end(), random);
  std::vector<Access> accesses;
  for (const std::uint64_t i : order) {
    const std::array<unsigned, 3> index = {static_cast<unsigned>(i % grid.x),
                                           static_cast<unsigned>(i / grid.x % grid.y),
                                           static_cast<unsigned>(i / grid.x / grid.y)};
    Block(name, grid, index, threads, random(), body, accesses).run();
  }
  if (is_race(accesses))
    throw std::runtime_error("kernel " + std::string(name) +
                             ": a block touches memory that another block writes");
}

}  // namespace simt
