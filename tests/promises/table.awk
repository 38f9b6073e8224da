# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Compares what the tests printed with the table of promises. Reads promises.csv, then the JUnit
# files of ctest, and tests/fuzz/counts.csv. A file after only=NUMBER is for one promise; one after
# prefix=sanitized., threads. or valgrind. is of a run with these. -v form=quick or full, -v
# format=text or markdown, -v sightings=FILE for the numbers of promises whose tests of planted
# faults were all red. The exit code is 1 if a promise is not held.

function unescape(s) {
  gsub(/&lt;/, "<", s); gsub(/&gt;/, ">", s); gsub(/&quot;/, "\"", s); gsub(/&apos;/, "'", s)
  gsub(/&amp;/, "\\&", s)
  return s
}

function attribute(line, name,    from) {
  from = index(line, " " name "=\"")
  if (!from) return ""
  line = substr(line, from + length(name) + 3)
  return unescape(substr(line, 1, index(line, "\"") - 1))
}

function is_number(s) { return s ~ /^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$/ }

# One NAME=VALUE of promise p.
function take(p, name, value,    key) {
  key = p SUBSEP name
  if (!(key in figure)) {
    names[p] = names[p] " " name
    figure[key] = value
    return
  }
  if (!is_number(value)) {
    if (index(" " figure[key] " ", " " value " ") == 0) figure[key] = figure[key] " " value
  } else if (name ~ /^least/) {
    if (value + 0 < figure[key] + 0) figure[key] = value
  } else if (name ~ /^(worst|most)/) {
    if (!(value + 0 <= figure[key] + 0)) figure[key] = value
  } else {
    figure[key] += value
  }
}

function plain(value) {
  return is_number(value) && value == int(value) ? sprintf("%d", value) : value
}

# Whether the figure of promise p is as the condition says; sets `shown` to the condition in words,
# or to nothing if this form does not ask for it ("-").
function holds(p, condition,    at, name, relation, value, parts, found) {
  match(condition, /(<=|>=|=)/)
  name = substr(condition, 1, RSTART - 1)
  relation = substr(condition, RSTART, RLENGTH)
  value = substr(condition, RSTART + RLENGTH)
  if (split(value, parts, "/") == 2) value = form == "full" ? parts[2] : parts[1]
  shown = ""
  if (value == "-") return 1
  shown = name " " relation " " value
  gsub(/_/, " ", shown)
  if (!((p SUBSEP name) in figure)) return 0
  found = figure[p, name]
  if (!is_number(value)) return found == value
  if (!is_number(found)) return 0
  if (relation == "<=") return found + 0 <= value + 0
  if (relation == ">=") return found + 0 >= value + 0
  return found + 0 == value + 0
}

# Of the long runs of the fuzz targets: inputs, seconds of processor time, seconds.
FILENAME ~ /counts\.csv$/ {
  if ($0 ~ /^#/ || split($0, field, ",") != 5 || field[2] !~ /^[0-9]+$/) next
  take(16, "inputs_of_long_runs", field[2])
  processor_seconds += field[3]
  long_seconds += field[4]
  next
}

FILENAME ~ /\.csv$/ {
  if ($0 ~ /^#/ || $0 == "") next
  if (split($0, field, ";") != 6) {
    print FILENAME ":" FNR ": six fields are required" > "/dev/stderr"
    broken = 1
    next
  }
  p = field[1]
  order[++count] = p
  text[p] = field[2]; wanted[p] = field[3]; pattern[p] = field[4]; fault[p] = field[5]
  seen[p] = field[6]
  next
}

only != "" { was_run[only] = 1 }

/<testcase / {
  test = prefix attribute($0, "name")
  seconds = attribute($0, "time")
  status = attribute($0, "status")
  skip = 0
  ended = 0
  if (status == "disabled") skip = 1
  for (i = 1; i <= count; ++i) {
    p = order[i]
    chosen = only == "" || only == p
    concerned[p] = chosen && pattern[p] !~ /^-/ && test ~ pattern[p]
    is_fault[p] = chosen && fault[p] ~ /^test:/ && test ~ substr(fault[p], 6)
    if (is_fault[p]) { ++faults_run[p]; if (status == "run") ++faults_red[p] }
    if (!concerned[p]) continue
    ++tests[p]
    time[p] += seconds
    if (status == "fail") ++failed[p]
    # How many of them, if the promise asks for it.
    with = substr(prefix, 1, length(prefix) - 1)
    if (status == "run" && with != "" && index(" " wanted[p], " " with)) take(p, with, 1)
  }
  next
}
/<skipped message="SKIP_/ { skip = 1 }
/<skipped message="Unable/ {
  for (i = 1; i <= count; ++i) if (concerned[order[i]]) ++failed[order[i]]
}
/^<\/testcase>|^[ \t]*<\/testcase>/ {
  if (skip) for (i = 1; i <= count; ++i) if (concerned[order[i]]) ++skipped[order[i]]
  skip = 0
  test = ""
}
{
  line = $0
  sub(/^[ \t]*<system-out>/, "", line)
  sub(/<\/system-out>$/, "", line)
  # libFuzzer's own words.
  if (line ~ /^stat::number_of_executed_units: / && concerned[16] && status == "run")
    take(16, "inputs", substr(line, index(line, ": ") + 2) + 0)
  if (line !~ /^promise [0-9]+: /) next
  p = substr(line, 9) + 0
  # A figure counts only if the table says that this test holds the promise, and it passed.
  if (!concerned[p] || status != "run") next
  sub(/^promise [0-9]+: /, "", line)
  n = split(unescape(line), pairs, " ")
  for (j = 1; j <= n; ++j) {
    at = index(pairs[j], "=")
    if (at) take(p, substr(pairs[j], 1, at - 1), substr(pairs[j], at + 1))
  }
}

function column(s, width) { return sprintf("%-" width "s", s) }

END {
  if (broken) exit 2
  if (long_seconds) {
    take(16, "minutes_of_long_runs", int(long_seconds / 60))
    take(16, "minutes_of_processor_time", int(processor_seconds / 60))
  }
  for (i = 1; i <= count; ++i) {
    p = order[i]
    if (tests[p] || pattern[p] ~ /^-/) continue
    if (pattern[p] ~ /sanitized/) pattern[p] = "- no results of tests/run.sh --sanitize"
    else if (form == "full" && !(p in was_run)) pattern[p] = "- it was not run"
  }
  if (format == "markdown")
    print "| promise | wanted | measured | tests | time | planted fault last seen red |\n" \
          "| --- | --- | --- | --- | --- | --- |"
  for (i = 1; i <= count; ++i) {
    p = order[i]
    held = 1
    if (pattern[p] ~ /^-/) {
      state = "skipped"
      measured = substr(pattern[p], 2)
      sub(/^ */, "", measured)
      ++unchecked
    } else {
      passed = tests[p] - failed[p] - skipped[p]
      figure[p, "tests"] = passed
      figure[p, "failed"] = failed[p] + 0
      held = passed > 0 && failed[p] + 0 == 0
    }
    conditions = ""
    n = split(wanted[p], list, " ")
    for (j = 1; j <= n; ++j) {
      ok = holds(p, list[j])
      if (shown != "") conditions = conditions (conditions != "" ? ", " : "") shown
      if (pattern[p] !~ /^-/ && !ok) held = 0
    }
    if (pattern[p] !~ /^-/) {
      state = held ? "held" : "NOT HELD"
      # Where every test was skipped, nothing is known.
      only_skips = passed == 0 && failed[p] + 0 == 0 && skipped[p] > 0
      if (only_skips) state = "skipped"
      measured = ""
      n = split(names[p], list, " ")
      for (j = 1; j <= n; ++j) {
        one = list[j]
        gsub(/_/, " ", one)
        measured = measured (j > 1 ? ", " : "") one " " plain(figure[p, list[j]])
      }
      if (measured == "") measured = passed > 0 ? "no figure" : "nothing ran"
    }
    skips = skipped[p] + 0
    all_skipped += skips
    ran = pattern[p] ~ /^-/ ? "0" : passed (failed[p] ? ", " failed[p] " failed" : "") \
      (skips ? ", " skips " skipped" : "")
    if (fault[p] ~ /^test:/) {
      red = seen[p] == "" ? "never" : seen[p]
      if (faults_run[p] && faults_red[p] == faults_run[p]) {
        red = faults_red[p] " in this run"
        if (sightings != "") print p > sightings
      } else if (pattern[p] !~ /^-/ && state != "skipped") {
        red = "NOT RED: " faults_red[p] + 0 " of " faults_run[p] + 0
        held = 0
        state = "NOT HELD"
      }
    } else if (fault[p] ~ /^-/) {
      red = "never: " substr(fault[p], 2)
    } else {
      red = seen[p] == "" ? "never" : seen[p]
      if (seen[p] == "" && state != "skipped") ++unproven
    }
    if (state == "NOT HELD") ++bad
    if (state == "skipped" && pattern[p] !~ /^-/) ++unchecked
    if (state == "held") ++good
    clock = sprintf("%.1f s", time[p])
    if (format == "markdown") {
      gsub(/\|/, "\\|", measured)
      printf "| %s. %s | %s | **%s**: %s | %s | %s | %s |\n", p, text[p], conditions, state,
             measured, ran, clock, red
    } else {
      printf "%2s %s %s\n", p, column(state, 8), text[p]
      if (conditions != "") printf "   wanted   %s\n", conditions
      printf "   measured %s\n", measured
      printf "   tests    %s in %s; planted fault red: %s\n", ran, clock, red
    }
  }
  printf "%s%d promises held, %d not held, %d not checked here, %d without a fault seen red; " \
         "%d tests skipped\n",
         format == "markdown" ? "\n" : "", good, bad, unchecked, unproven, all_skipped
  exit bad > 0
}
