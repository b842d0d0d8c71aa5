//! How much memory this process may use where no setting limits it.

use std::fs;

use crate::telemetry::memory_line;

/// The share that is left to other processes, the page cache and the daemon's own buffers.
const RESERVED: u64 = 10;

/// Bytes that this process may use without being killed for it: the least of its cgroups' limits, its
/// own limit of address space, and what the machine has left, less a tenth. `None` where the system
/// reports none of them.
pub fn available_memory() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let status = read("/proc/self/status").unwrap_or_default();
    let [resident, mapped] = ["VmRSS", "VmSize"].map(|name| memory_line(&status, name));
    let resident = resident.unwrap_or(0);
    // What is mapped and not resident takes address space, and no memory.
    let unused = mapped.unwrap_or(0).saturating_sub(resident);
    let limits = read("/proc/self/limits").unwrap_or_default();
    let address_space = address_space(&limits).map(|limit| limit.saturating_sub(unused));
    let left = read("/proc/meminfo").and_then(|text| memory_line(&text, "MemAvailable"));
    let machine = left.map(|left| left.saturating_add(resident));
    let of_groups = cgroup_limits(&read("/proc/self/cgroup").unwrap_or_default(), read);
    let least = of_groups.into_iter().chain(address_space).chain(machine).min()?;
    Some(least - least / RESERVED)
}

fn address_space(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    // "unlimited" is no number.
    line.split_whitespace().next()?.parse().ok()
}

/// Limits of the process's groups and of those above them, in both versions of the hierarchy.
fn cgroup_limits(groups: &str, read: impl Fn(&str) -> Option<String>) -> Vec<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        let mut path = path.trim_end_matches('/');
        loop {
            let limit = read(&format!("{root}{path}/{file}"));
            // "max" is no number.
            limits.extend(limit.and_then(|text| text.trim().parse::<u64>().ok()));
            match path.rfind('/') {
                Some(end) => path = &path[..end],
                None => break,
            }
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_files_are_read() {
        let limits = "Limit    Soft Limit   Hard Limit  Units\n\
                      Max address space         1572864000           unlimited            bytes\n";
        assert_eq!(address_space(limits), Some(1_572_864_000));
        assert_eq!(address_space(&limits.replace("1572864000", "unlimited ")), None);
    }

    #[test]
    fn the_limits_of_all_groups_above_count() {
        let files = |path: &str| match path {
            "/sys/fs/cgroup/a/b/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/a/memory.max" => Some("4096\n".to_owned()),
            "/sys/fs/cgroup/memory.max" => Some("8192\n".to_owned()),
            "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" => Some("1024\n".to_owned()),
            _ => None,
        };
        assert_eq!(cgroup_limits("0::/a/b\n", files), [4096, 8192]);
        assert_eq!(cgroup_limits("5:cpu,memory:/x\n4:pids:/y\n", files), [1024]);
        assert_eq!(cgroup_limits("0::/\n", files), [8192]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_some() {
        assert!(available_memory().unwrap() > 1 << 20);
    }
}
