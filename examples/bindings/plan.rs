// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Plans in Rust over the C interface: rustc plan.rs -L native=LIB -l dylib=dropbp
use std::ffi::{c_char, c_int, c_void, CStr};

type Handle = *mut c_void;
extern "C" {
    fn dropbp_last_error() -> *const c_char;
    fn dropbp_schedule_create(branches: usize, costs: *const f64, options: *const c_void) -> Handle;
    fn dropbp_schedule_destroy(schedule: Handle);
    fn dropbp_schedule_set_drop_rate(schedule: Handle, rate: f64) -> i32;
    fn dropbp_plan_create() -> Handle;
    fn dropbp_plan_destroy(plan: Handle);
    fn dropbp_plan_draw(plan: Handle, schedule: Handle, step: u64, micro_step: u32) -> i32;
    fn dropbp_plan_dropped(plan: Handle, branch: usize) -> c_int;
}

fn check(status: i32) -> Result<(), String> {
    let error = || unsafe { CStr::from_ptr(dropbp_last_error()).to_string_lossy().into_owned() };
    if status == 0 { Ok(()) } else { Err(error()) }
}

fn main() -> Result<(), String> {
    const BRANCHES: usize = 8;
    unsafe {
        let schedule = dropbp_schedule_create(BRANCHES, std::ptr::null(), std::ptr::null());
        let plan = dropbp_plan_create();
        check(dropbp_schedule_set_drop_rate(schedule, 0.5))?;
        println!("{}", check(dropbp_schedule_set_drop_rate(schedule, 1.5)).unwrap_err());
        for step in 0..3 {
            check(dropbp_plan_draw(plan, schedule, step, 0))?; // before the forward pass
            let dropped = (0..BRANCHES).filter(|&b| dropbp_plan_dropped(plan, b) == 1);
            println!("step {step} drops {:?}", dropped.collect::<Vec<_>>());
        }
        dropbp_plan_destroy(plan);
        dropbp_schedule_destroy(schedule);
    }
    Ok(())
}
