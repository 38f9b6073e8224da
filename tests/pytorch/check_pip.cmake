# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# pip installs a copy of the checkout's examples/pytorch into WORK_DIR/site without the network, and
# PYTHON imports the result. SOURCE_DIR comes from the command line too.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

execute_process(COMMAND ${PYTHON} -c "import setuptools, pip, torch" RESULT_VARIABLE status
  ERROR_VARIABLE messages OUTPUT_QUIET)
if(NOT status EQUAL 0)
  message(NOTICE "SKIPPED: ${PYTHON} lacks pip, setuptools or torch")
  return()
endif()
# pip writes into the folder that it builds.
file(REMOVE_RECURSE ${WORK_DIR})
foreach(name IN ITEMS CMakeLists.txt LICENSE include cmake docs examples/pytorch)
  cmake_path(GET name PARENT_PATH folder)
  file(COPY ${SOURCE_DIR}/${name} DESTINATION ${WORK_DIR}/checkout/${folder})
endforeach()
execute_process(COMMAND ${PYTHON} -m pip install --quiet --no-index --no-deps --no-build-isolation
  --disable-pip-version-check --target ${WORK_DIR}/site ${WORK_DIR}/checkout/examples/pytorch
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  fail("pip does not install examples/pytorch:\n${output}")
endif()
execute_process(WORKING_DIRECTORY ${WORK_DIR} RESULT_VARIABLE status OUTPUT_VARIABLE output
  ERROR_VARIABLE output
  COMMAND ${CMAKE_COMMAND} -E env --unset=DROPBP_LIBRARY PYTHONPATH=${WORK_DIR}/site ${PYTHON} -c
  "import dropbp; print(dropbp.__file__, dropbp._lib._name)")
if(NOT status EQUAL 0 OR NOT output MATCHES "/site/dropbp.py .*/site/libdropbp.so")
  fail("what pip installed does not import: ${status}\n${output}")
endif()
