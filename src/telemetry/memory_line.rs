//! Lines of the system's files below `/proc` that tell bytes of memory.

/// The bytes that a line such as `VmHWM: 1234 kB` tells; `None` where there is no such line.
pub fn memory_line(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_name_is_read() {
        let status = "Name:\tx\nVmPeak:\t 10 kB\nVmHWM:\t  1234 kB\nVmSwap: many kB\n";
        assert_eq!(memory_line(status, "VmHWM"), Some(1_263_616));
        for absent in ["VmRSS", "VmP", "Name", "VmSwap"] {
            assert_eq!(memory_line(status, absent), None, "{absent}");
        }
    }
}
