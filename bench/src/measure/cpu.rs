//! Processor time.
//!
//! The total is that of `/proc/stat`: everything but idling and waiting for disks, softirq
//! included, where most of a packet's way through the kernel is counted. So it has whatever else
//! the machine did meanwhile; compare within a round. The forwarders' is `utime` and `stime` of
//! their processes, all threads, which the kernel scales to the exact run time.

use std::fs;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Seconds of processor time up to now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Of all processors, busy with anything.
    pub machine_s: f64,
    /// Of the processes asked for; `None` without any.
    pub processes_s: Option<f64>,
}

impl Usage {
    /// Fails if one of the processes has ended.
    pub fn now(pids: &[u32]) -> Result<Self> {
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no CLK_TCK")? as f64;
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let busy = busy_ticks(&stat).context("/proc/stat is not as expected")?;
        let mut processes = None;
        for pid in pids {
            let path = format!("/proc/{pid}/stat");
            let stat = fs::read_to_string(&path).with_context(|| format!("{path}: it ended"))?;
            let used =
                process_ticks(&stat).with_context(|| format!("{path} is not as expected"))?;
            *processes.get_or_insert(0.0) += used as f64 / ticks;
        }
        Ok(Usage {
            machine_s: busy as f64 / ticks,
            processes_s: processes,
        })
    }

    /// The difference.
    pub fn since(&self, before: &Usage) -> Usage {
        let processes = self.processes_s.zip(before.processes_s);
        Usage {
            machine_s: self.machine_s - before.machine_s,
            processes_s: processes.map(|(now, before)| now - before),
        }
    }
}

/// `user nice system` and `irq softirq` of the first line; `guest` is part of `user`, and what
/// the hypervisor took away is not ours.
fn busy_ticks(stat: &str) -> Option<u64> {
    let words = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = words
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

/// Fields 14 and 15; the second, the name, may hold spaces and parentheses.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softirq_counts_and_idling_does_not() {
        let stat = "cpu  100 20 3 9000 500 4 50 7 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(177));
        assert_eq!(busy_ticks("cpu  1 2 3\n"), None);
        assert_eq!(busy_ticks(""), None);
    }

    #[test]
    fn a_name_with_spaces_does_not_shift_the_fields() {
        let stat = "17 (a (b) c) S 1 17 17 0 -1 4194560 10 0 0 0 250 131 0 0 20 0 9 0 100\n";
        assert_eq!(process_ticks(stat), Some(381));
        assert_eq!(process_ticks("17 (cut) S 1"), None);
    }

    #[test]
    fn this_process_is_found() {
        let usage = Usage::now(&[std::process::id()]).unwrap();
        assert!(usage.machine_s > 0.0);
        assert!(usage.processes_s.is_some());
        assert_eq!(usage.since(&usage).processes_s, Some(0.0));
    }
}
