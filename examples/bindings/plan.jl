# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Plans in Julia over the C interface: DROPBP_LIBRARY=LIB/libdropbp.so julia plan.jl
const library = get(ENV, "DROPBP_LIBRARY", "libdropbp.so")

last_error() = unsafe_string(ccall((:dropbp_last_error, library), Cstring, ()))
check(status) = status == 0 || error(last_error())

const branches = 8
schedule = ccall((:dropbp_schedule_create, library), Ptr{Cvoid},
                 (Csize_t, Ptr{Cdouble}, Ptr{Cvoid}), branches, C_NULL, C_NULL)
plan = ccall((:dropbp_plan_create, library), Ptr{Cvoid}, ())
set_rate(rate) = ccall((:dropbp_schedule_set_drop_rate, library), Int32,
                       (Ptr{Cvoid}, Cdouble), schedule, rate)
check(set_rate(0.5))
set_rate(1.5) == 0 || println(last_error())
dropped(branch) = ccall((:dropbp_plan_dropped, library), Cint, (Ptr{Cvoid}, Csize_t), plan, branch)

for step in 0:2
    # before the forward pass
    check(ccall((:dropbp_plan_draw, library), Int32, (Ptr{Cvoid}, Ptr{Cvoid}, UInt64, UInt32),
                plan, schedule, step, 0))
    numbers = join([b for b in 0:branches-1 if dropped(b) == 1], ", ")
    println("step $step drops [$numbers]")
end
ccall((:dropbp_plan_destroy, library), Cvoid, (Ptr{Cvoid},), plan)
ccall((:dropbp_schedule_destroy, library), Cvoid, (Ptr{Cvoid},), schedule)
