//! Records in words: `host 60 A 192.0.2.1`, and their octets.
//!
//! Names are relative to the zone unless they end in a dot; `@` is the apex. Types and classes
//! may be numbers (`TYPE65280`, `CLASS7`), and any data may be `\# HEX` (RFC 3597), which is how
//! malformed data is written. No data at all is written as nothing.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail, ensure};

use crate::wire::Record;

/// The zone of every scenario.
pub const ZONE: &str = "map.example.";

pub const IN: u16 = 1;
pub const SOA: u16 = 6;
pub const AXFR: u16 = 252;

const NS: u16 = 2;
const CNAME: u16 = 5;
const TXT: u16 = 16;
const SVCB: u16 = 64;

const TYPES: [(&str, u16); 15] = [
    ("A", 1),
    ("NS", NS),
    ("CNAME", CNAME),
    ("SOA", SOA),
    ("TXT", TXT),
    ("AAAA", 28),
    ("OPT", 41),
    ("SVCB", SVCB),
    ("TKEY", 249),
    ("TSIG", 250),
    ("IXFR", 251),
    ("AXFR", AXFR),
    ("MAILB", 253),
    ("MAILA", 254),
    ("ANY", 255),
];

const CLASSES: [(&str, u16); 5] = [
    ("IN", IN),
    ("CH", 3),
    ("HS", 4),
    ("NONE", 254),
    ("ANY", 255),
];

/// Whether data of this type is one name.
pub fn is_name(kind: u16) -> bool {
    matches!(kind, NS | CNAME)
}

fn number(word: &str, known: &[(&str, u16)], prefix: &str) -> Result<u16> {
    if let Some((_, number)) = known.iter().find(|(name, _)| *name == word) {
        return Ok(*number);
    }
    let digits = word.strip_prefix(prefix).and_then(|d| d.parse().ok());
    digits.with_context(|| format!("{word:?} is none of the names known here nor {prefix}NUMBER"))
}

fn kind(word: &str) -> Result<u16> {
    number(word, &TYPES, "TYPE")
}

fn class(word: &str) -> Result<u16> {
    number(word, &CLASSES, "CLASS")
}

pub fn name(word: &str) -> Result<Vec<u8>> {
    let full = match word.strip_suffix('.') {
        _ if word == "@" => ZONE.to_owned(),
        Some(_) => word.to_owned(),
        None => format!("{word}.{ZONE}"),
    };
    let mut octets = Vec::new();
    for label in full
        .trim_end_matches('.')
        .split('.')
        .filter(|_| full != ".")
    {
        ensure!((1..64).contains(&label.len()), "{word:?} is no name");
        octets.push(label.len() as u8);
        octets.extend(label.bytes());
    }
    octets.push(0);
    Ok(octets)
}

/// Splits at blanks, not inside quotes, which stay.
pub fn words(line: &str) -> Vec<&str> {
    let mut quoted = false;
    let parts = line.split(|c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    });
    parts.filter(|part| !part.is_empty()).collect()
}

/// `NAME TTL TYPE DATA`, of class IN.
pub fn record(words: &[&str]) -> Result<Record> {
    let [owner, ttl, kind, data @ ..] = words else {
        bail!("a record is NAME TTL TYPE DATA");
    };
    raw(&[&[*owner, *ttl, "IN", *kind][..], data].concat())
}

/// `NAME TTL CLASS TYPE [DATA]`.
pub fn raw(words: &[&str]) -> Result<Record> {
    let [owner, ttl, of, what, data @ ..] = words else {
        bail!("write NAME TTL CLASS TYPE [DATA]");
    };
    let kind = kind(what)?;
    Ok(Record {
        name: name(owner)?,
        kind,
        class: class(of)?,
        ttl: ttl.parse().with_context(|| format!("{ttl:?} is no TTL"))?,
        data: self::data(kind, data)?,
    })
}

fn data(kind: u16, words: &[&str]) -> Result<Vec<u8>> {
    let octets = match (kind, words) {
        (_, []) => vec![],
        (_, [r"\#", hex @ ..]) => hex_octets(&hex.concat())?,
        (1, [one]) => one.parse::<Ipv4Addr>()?.octets().to_vec(),
        (28, [one]) => one.parse::<Ipv6Addr>()?.octets().to_vec(),
        (NS | CNAME, [one]) => name(one)?,
        (SOA, [server, contact, numbers @ ..]) if numbers.len() == 5 => {
            let mut octets = [name(server)?, name(contact)?].concat();
            for word in numbers {
                octets.extend(word.parse::<u32>()?.to_be_bytes());
            }
            octets
        }
        (TXT, texts) => {
            let texts = texts.iter().map(|t| t.trim_matches('"'));
            texts.flat_map(counted).collect()
        }
        (SVCB, [priority, target, parameters @ ..]) => {
            let mut octets = priority.parse::<u16>()?.to_be_bytes().to_vec();
            octets.extend(name(target)?);
            for word in parameters {
                octets.extend(parameter(word)?);
            }
            octets
        }
        _ => bail!(r"data of this type is written \# HEX"),
    };
    Ok(octets)
}

fn counted(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

/// One parameter of SVCB (RFC 9460 section 2.2); whoever writes them keeps them in order.
fn parameter(word: &str) -> Result<Vec<u8>> {
    let (key, value) = word.split_once('=').context("a parameter is KEY=VALUE")?;
    let (key, value) = match key {
        "port" => (3, value.parse::<u16>()?.to_be_bytes().to_vec()),
        "ipv4hint" => (4, value.parse::<Ipv4Addr>()?.octets().to_vec()),
        "ipv6hint" => (6, value.parse::<Ipv6Addr>()?.octets().to_vec()),
        _ => (number(key, &[], "key")?, value.as_bytes().to_vec()),
    };
    let mut octets = [key, value.len() as u16].map(u16::to_be_bytes).concat();
    octets.extend(value);
    Ok(octets)
}

fn hex_octets(hex: &str) -> Result<Vec<u8>> {
    ensure!(
        hex.is_ascii() && hex.len().is_multiple_of(2),
        "{hex:?} is no hexadecimal"
    );
    let pairs = (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16));
    Ok(pairs.collect::<Result<_, _>>()?)
}
