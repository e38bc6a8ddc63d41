//! What processes hold, from `/proc`.

use std::collections::HashMap;
use std::fs;

/// The resident memory of each of these process groups, in bytes; what processes share counts for each of them. A group
/// that is gone holds nothing. Reads a file for each process of the machine: some milliseconds.
pub(in crate::provider) fn group_bytes(groups: &[i32]) -> HashMap<i32, u64> {
    let mut held: HashMap<i32, u64> = groups.iter().map(|group| (*group, 0)).collect();
    let Ok(processes) = fs::read_dir("/proc") else { return held };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(number) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
            continue;
        };
        // A process may end between two of these steps.
        let Some(group) = read(number, "stat").and_then(|stat| group_of(&stat)) else { continue };
        let Some(bytes) = held.get_mut(&group) else { continue };
        *bytes += read(number, "status").and_then(|status| kilobytes(&status, "VmRSS:")).unwrap_or(0);
    }
    held
}

/// Has the peak of a process counted anew from what it holds now; whether that is so. Not every system can.
pub(in crate::provider) fn forget_peak(process: i32) -> bool {
    // proc(5), clear_refs: 5 resets the peak resident set size.
    fs::write(format!("/proc/{process}/clear_refs"), "5").is_ok()
}

/// The most resident memory that a process which has not ended held so far, in bytes; what it has started counts for itself.
pub(in crate::provider) fn peak_bytes(process: i32) -> Option<u64> {
    kilobytes(&read(&process.to_string(), "status")?, "VmHWM:")
}

fn read(number: &str, file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{number}/{file}")).ok()
}

/// `NUMBER (NAME) STATE PARENT GROUP ...`, where the name may hold anything.
fn group_of(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

/// In bytes, from `VmRSS:      1234 kB`.
fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
