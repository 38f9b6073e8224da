# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that dropbp_fwd.hpp declares every public type of the core, and that default template
# arguments are only there. INCLUDE_DIR comes from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

file(READ ${INCLUDE_DIR}/dropbp/dropbp_fwd.hpp names)
file(GLOB headers ${INCLUDE_DIR}/dropbp/*.hpp ${INCLUDE_DIR}/dropbp/base/*.hpp
  ${INCLUDE_DIR}/dropbp/policy/*.hpp
  ${INCLUDE_DIR}/dropbp/sensitivity/*.hpp
  ${INCLUDE_DIR}/dropbp/backend/*.hpp)
list(FILTER headers EXCLUDE REGEX "/dropbp_fwd\\.hpp$")
set(faults "")
set(count 0)
foreach(header IN LISTS headers)
  set(detail "namespace detail|}  // namespace detail")
  file(STRINGS ${header} lines
    REGEX "^(${detail}|(struct|class|enum class) [A-Za-z_]+|template <)")
  set(in_detail FALSE)
  set(parameters "")
  foreach(line IN LISTS lines)
    if(line MATCHES "namespace detail")
      set(in_detail FALSE)
      if(line MATCHES "^namespace")
        set(in_detail TRUE)
      endif()
    elseif(line MATCHES "^template")
      set(parameters "${line}")
    elseif(NOT in_detail AND line MATCHES "^(struct|class|enum class) ([A-Za-z_]+)( |;|$)")
      set(keyword "${CMAKE_MATCH_1}")
      set(name ${CMAKE_MATCH_2})
      math(EXPR count "${count} + 1")
      if(NOT names MATCHES "\n${keyword} ${name}[ ;]")
        list(APPEND faults
          "${header} has the type ${name}, which dropbp_fwd.hpp does not declare as ${keyword}")
      endif()
      if(parameters MATCHES " = " AND NOT parameters MATCHES "^template <class = void>")
        list(APPEND faults
          "${header} has a default template argument of ${name}, which belongs into dropbp_fwd.hpp")
      endif()
      set(parameters "")
    else()
      set(parameters "")
    endif()
  endforeach()
endforeach()
if(count LESS 20)
  list(APPEND faults "only ${count} types were found: the check does not see the headers")
endif()
if(faults)
  list(JOIN faults "\n" faults)
  fail("${faults}")
endif()
message(NOTICE "${count} types are declared")
