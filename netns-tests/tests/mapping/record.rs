//! Records as `dig` shows them and `nsupdate` changes them.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use mat_netns::Cmd;
use mat_netns::testbed::{OPERATOR_SECRET, Testbed};

/// The key that may do everything, as nsupdate takes it.
pub fn operator() -> String {
    format!("hmac-sha256:operator:{OPERATOR_SECRET}")
}

/// The owner name of the record of `home`.
pub fn owner(home: &str) -> Result<String> {
    let labels: Vec<String> = match home.parse()? {
        IpAddr::V4(ip) => ip.octets().iter().rev().map(u8::to_string).collect(),
        IpAddr::V6(ip) => {
            let octets = ip.octets().into_iter().rev();
            octets
                .map(|octet| format!("{:x}.{:x}", octet & 15, octet >> 4))
                .collect()
        }
    };
    let family = if home.contains(':') { "h6" } else { "h4" };
    Ok(format!("{}.{family}.map.example.", labels.join(".")))
}

/// The record of `home`; nothing if there is none.
pub fn shown(bed: &Testbed, home: &str) -> Result<String> {
    let dig = format!("dig +short @203.0.113.53 {} SVCB", owner(home)?);
    Ok(bed.map.run(dig)?.trim().to_owned())
}

/// The epoch in a record.
pub fn epoch(record: &str) -> Result<u64> {
    let epoch = record
        .split("key65280=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let epoch = epoch.with_context(|| format!("no epoch in {record:?}"))?;
    Ok(epoch.parse()?)
}

/// The line of nsupdate that adds a record.
pub fn addition(home: &str, epoch: u64, locator: &str) -> Result<String> {
    let hint = if locator.contains(':') {
        "ipv6hint"
    } else {
        "ipv4hint"
    };
    Ok(format!(
        "update add {} 0 IN SVCB 1 . port=6283 {hint}={locator} key65280=\"{epoch}\" \
         key65281=\"native\" key65282=\"30\"",
        owner(home)?
    ))
}

/// Runs nsupdate with these lines; whether it succeeded, and what it said.
pub fn nsupdate(bed: &Testbed, key: &str, lines: &str) -> Result<(bool, String)> {
    let script = format!("server 203.0.113.53\nzone map.example.\n{lines}\nsend\nanswer\n");
    let output = bed
        .map
        .exec(Cmd::new("nsupdate").args(["-y", key]).stdin(script))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

/// Makes `locator` the place of `home`, if the record is still what it was, and returns the new
/// epoch. This is what moves an instance, by nsupdate alone.
pub fn hand_to(bed: &Testbed, home: &str, locator: &str) -> Result<u64> {
    let (owner, before) = (owner(home)?, shown(bed, home)?);
    let epoch = epoch(&before)? + 1;
    let (done, said) = nsupdate(
        bed,
        &operator(),
        &format!(
            "prereq yxrrset {owner} SVCB {before}\nupdate delete {owner} SVCB\n{}",
            addition(home, epoch, locator)?
        ),
    )?;
    ensure!(done && said.contains("NOERROR"), "{said}");
    Ok(epoch)
}
