//! What the kernel of a host has counted since its namespace was made.

use anyhow::Result;
use mat_netns::Host;

/// The sum of the SNMP counters of both families whose name ends with `name`, for instance
/// `InCsumErrors` over TCP, UDP and ICMP.
pub fn counted(host: &Host, name: &str) -> Result<u64> {
    let tables = host.run("cat /proc/net/snmp /proc/net/netstat")?;
    let lines: Vec<&str> = tables.lines().collect();
    let mut sum = 0;
    for pair in lines.chunks_exact(2) {
        let columns = pair[0].split_whitespace().zip(pair[1].split_whitespace());
        sum += columns
            .filter(|(column, _)| column.ends_with(name))
            .filter_map(|(_, value)| value.parse::<u64>().ok())
            .sum::<u64>();
    }
    let table6 = host.run("cat /proc/net/snmp6")?;
    let rows = table6
        .lines()
        .filter_map(|row| row.split_once(char::is_whitespace));
    let rows = rows.filter(|(row, _)| row.ends_with(name));
    sum += rows
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum::<u64>();
    Ok(sum)
}

/// Received packets with a wrong checksum.
pub fn checksum_errors(host: &Host) -> Result<u64> {
    counted(host, "InCsumErrors")
}
