//! Wall-clock times as people at this machine read them.

use std::mem::MaybeUninit;

/// `2026-07-31 14:03:27.120` in the machine's time zone, from Unix time in microseconds.
pub(super) fn local(unix_us: u64) -> String {
    let seconds = (unix_us / 1_000_000) as libc::time_t;
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call, and localtime_r keeps neither.
    let found = unsafe { libc::localtime_r(&seconds, parts.as_mut_ptr()) };
    if found.is_null() {
        return format!("{seconds} s after 1970");
    }
    // SAFETY: `libc::tm` is plain data, which was zeroed and then filled in.
    let parts = unsafe { parts.assume_init() };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
        parts.tm_year + 1900,
        parts.tm_mon + 1,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec,
        unix_us / 1000 % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_its_parts() {
        // No zone is more than a day off, and minutes of all zones are multiples of 15.
        let text = local(1_785_500_000_123_456);
        assert!(
            text.starts_with("2026-07-31 ") || text.starts_with("2026-08-01 "),
            "{text}"
        );
        assert!(text.ends_with(":20.123"), "{text}");
        assert_eq!(text.len(), "2026-07-31 14:13:20.123".len());
    }
}
