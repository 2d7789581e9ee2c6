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
}
