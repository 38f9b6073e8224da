# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Links files that were compiled in different ways into programs: each file makes the same decisions
# and gets errors as its mode documents, whichever file the linker takes shared functions from.
# COMPILER, OTHER_COMPILER (may be empty), PART, INCLUDE_DIR and WORK_DIR come from the command
# line. FAULT=one_namespace: files with and without exceptions share their functions, which must be
# seen. FAULT=two_versions: a type of one version is passed to a function of another.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})

# The next version, or the fault, is a changed copy of the headers.
file(COPY ${INCLUDE_DIR}/dropbp DESTINATION ${WORK_DIR}/next)
file(READ ${WORK_DIR}/next/dropbp/version.hpp text)
string(REGEX REPLACE "(DROPBP_VERSION_MINOR) [0-9]+" "\\1 999" text "${text}")
file(WRITE ${WORK_DIR}/next/dropbp/version.hpp "${text}")
if(FAULT STREQUAL "one_namespace")
  file(COPY ${INCLUDE_DIR}/dropbp DESTINATION ${WORK_DIR}/same)
  file(READ ${WORK_DIR}/same/dropbp/base/config.hpp text)
  string(REPLACE "DROPBP_JOIN(no_exceptions_v," "DROPBP_JOIN(v," text "${text}")
  file(WRITE ${WORK_DIR}/same/dropbp/base/config.hpp "${text}")
  set(INCLUDE_DIR ${WORK_DIR}/same)
endif()

function(compile name compiler include)
  execute_process(COMMAND ${compiler} -std=c++20 ${ARGN} -DPART_NAME=${name} -I ${include}
    -c ${PART} -o ${WORK_DIR}/${name}.o
    RESULT_VARIABLE status ERROR_VARIABLE messages)
  if(NOT status EQUAL 0)
    fail("part.cpp does not compile with ${ARGN}:\n${messages}")
  endif()
endfunction()

function(run name)
  set(declarations "")
  set(checks "")
  set(objects "")
  foreach(part IN LISTS ARGN)
    string(APPEND declarations
      "extern \"C\" unsigned long long ${part}_decisions();\nextern \"C\" bool ${part}_errors();\n")
    string(APPEND checks
      "  check(\"${part}\", ${part}_decisions(), ${part}_errors());\n")
    list(APPEND objects ${WORK_DIR}/${part}.o)
  endforeach()
  file(WRITE ${WORK_DIR}/${name}.cpp "#include <cstdio>\n${declarations}"
    "int wrong = 0;\nunsigned long long first = 0;\n"
    "void check(const char* part, unsigned long long decisions, bool errors) {\n"
    "  if (first == 0) first = decisions;\n"
    "  if (decisions == first && errors) return;\n"
    "  std::printf(\"%s: decisions %llx, not %llx, or wrong errors\\n\", part, decisions, first);\n"
    "  ++wrong;\n}\n"
    "int main() {\n${checks}  return wrong;\n}\n")
  execute_process(COMMAND ${COMPILER} ${WORK_DIR}/${name}.cpp ${objects} -o ${WORK_DIR}/${name}
    RESULT_VARIABLE status ERROR_VARIABLE messages)
  if(NOT status EQUAL 0)
    fail("${ARGN} do not link:\n${messages}")
  endif()
  execute_process(COMMAND ${WORK_DIR}/${name} RESULT_VARIABLE status OUTPUT_VARIABLE output
    ERROR_VARIABLE messages)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " parts)
    fail("a program of ${parts} must run, but its exit code is ${status}:\n${output}${messages}")
  endif()
endfunction()

if(FAULT STREQUAL "two_versions")
  file(WRITE ${WORK_DIR}/calls.cpp "#include \"dropbp/plan.hpp\"\nvoid take(dropbp::DropPlan&);\n"
    "int main() { dropbp::DropPlan plan; take(plan); }\n")
  file(WRITE ${WORK_DIR}/takes.cpp
    "#include \"dropbp/plan.hpp\"\nvoid take(dropbp::DropPlan&) {}\n")
  foreach(part IN ITEMS calls takes)
    set(include ${INCLUDE_DIR})
    if(part STREQUAL "takes")
      set(include ${WORK_DIR}/next)
    endif()
    execute_process(COMMAND ${COMPILER} -std=c++20 -I ${include} -c ${WORK_DIR}/${part}.cpp
      -o ${WORK_DIR}/${part}.o COMMAND_ERROR_IS_FATAL ANY)
  endforeach()
  execute_process(COMMAND ${COMPILER} ${WORK_DIR}/calls.o ${WORK_DIR}/takes.o -o ${WORK_DIR}/linked
    RESULT_VARIABLE status ERROR_VARIABLE messages)
  if(status EQUAL 0)
    fail("a type of one version was passed to another")
  endif()
  fail("does not link: ${messages}")
endif()

compile(no_exceptions ${COMPILER} ${INCLUDE_DIR} -O1 -fno-exceptions -fno-rtti -Wall -Werror)
compile(plain ${COMPILER} ${INCLUDE_DIR} -O0)
if(FAULT)
  run(faulty no_exceptions plain)
  return()
endif()
compile(fast ${COMPILER} ${INCLUDE_DIR} -O3 -ffast-math)
compile(no_rtti ${COMPILER} ${INCLUDE_DIR} -O2 -fno-rtti)
compile(next ${COMPILER} ${WORK_DIR}/next -O2)
set(parts no_exceptions plain fast no_rtti next)
if(OTHER_COMPILER)
  compile(other ${OTHER_COMPILER} ${INCLUDE_DIR} -O2)
  list(APPEND parts other)
endif()
# The linker takes a shared function from the first file that has it: each file comes first once.
set(programs 0)
foreach(first IN LISTS parts)
  set(order ${parts})
  list(REMOVE_ITEM order ${first})
  run(program_${programs} ${first} ${order})
  math(EXPR programs "${programs} + 1")
endforeach()
list(LENGTH parts count)
execute_process(COMMAND ${CMAKE_COMMAND} -E echo
  "promise 19: programs=${programs} files=${count} wrong=0")
