//! What the kernel of a host has counted since its namespace was made.

use std::fs;

use anyhow::{Context, Result};

use crate::host::Host;

/// The sum of the SNMP counters of both families whose name ends with `name`, for instance
/// `InCsumErrors` over TCP, UDP and ICMP.
pub fn counted(host: &Host, name: &str) -> Result<u64> {
    let read = |table: &str| {
        let path = format!("/proc/thread-self/net/{table}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let tables = host.enter(|| anyhow::Ok([read("snmp")?, read("netstat")?, read("snmp6")?]))??;
    let [snmp, netstat, snmp6] = &tables;
    Ok(in_columns(snmp, name) + in_columns(netstat, name) + in_rows(snmp6, name))
}

/// Received packets with a wrong checksum.
pub fn checksum_errors(host: &Host) -> Result<u64> {
    counted(host, "InCsumErrors")
}

/// Packets that found no room in a device's queue, on its way in or out.
pub fn device_drops(host: &Host) -> Result<u64> {
    let path = "/proc/thread-self/net/dev";
    let table = host.enter(|| fs::read_to_string(path))?;
    Ok(in_devices(
        &table.with_context(|| format!("cannot read {path}"))?,
    ))
}

/// Two lines of titles, then `NAME: bytes packets errs drop ..` for both directions.
fn in_devices(table: &str) -> u64 {
    let devices = table.lines().filter_map(|line| line.split_once(':'));
    let drops = devices.flat_map(|(_, values)| {
        let values: Vec<&str> = values.split_whitespace().collect();
        [3, 11].map(|n| values.get(n).and_then(|value| value.parse::<u64>().ok()))
    });
    drops.flatten().sum()
}

/// A line of names above each line of values.
fn in_columns(table: &str, name: &str) -> u64 {
    let lines: Vec<&str> = table.lines().collect();
    let pairs = lines.chunks_exact(2);
    let columns = pairs.flat_map(|pair| pair[0].split_whitespace().zip(pair[1].split_whitespace()));
    sum(columns, name)
}

/// A name and a value on each line.
fn in_rows(table: &str, name: &str) -> u64 {
    let rows = table
        .lines()
        .filter_map(|row| row.split_once(char::is_whitespace));
    sum(rows, name)
}

fn sum<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>, name: &str) -> u64 {
    entries
        .filter(|(entry, _)| entry.ends_with(name))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_that_name_are_summed_in_both_kinds_of_table() {
        let snmp = "Tcp: MaxConn InCsumErrors\nTcp: -1 2\nUdp: InCsumErrors InErrors\nUdp: 3 9\n";
        assert_eq!(in_columns(snmp, "InCsumErrors"), 5);
        assert_eq!(in_columns(snmp, "MaxConn"), 0);
        let snmp6 = "Udp6InErrors                    \t7\nUdp6InCsumErrors                \t4\n";
        assert_eq!(in_rows(snmp6, "InCsumErrors"), 4);
    }
    #[test]
    fn drops_are_summed_over_devices_and_directions() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop|bytes\n\
                     lo:  1 2 3 0 0 0 0 0 5 6 7 0 0 0 0 0\n\
                     mat0: 9 9 9 4 9 9 9 9 9 9 9 30 9 9 9 9\n";
        assert_eq!(in_devices(table), 34);
    }
}
