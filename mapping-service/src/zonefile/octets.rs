//! Data that hickory's parser does not know: octets (RFC 3597 section 5) and lists of prefixes
//! (RFC 3123 section 5). It is given texts that stand for them.

use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinEncodable as _};
use ipnet::IpNet;
use mat_proto::apl;

/// What stands for what.
pub(super) struct StandIns {
    /// Occurs nowhere else in the text.
    mark: String,
    data: Vec<RData>,
}

impl StandIns {
    /// For entries of this text.
    pub(super) fn new(text: &str) -> Self {
        let mut mark = String::from("stands-for-");
        while text.contains(&mark) {
            mark.push('-');
        }
        StandIns {
            mark,
            data: Vec::new(),
        }
    }

    /// An entry as the parser can read it, if it could not otherwise.
    ///
    /// # Errors
    /// What is wrong with its data.
    pub(super) fn put(&mut self, entry: &str) -> Result<Option<String>, &'static str> {
        let body = entry.split(';').next().unwrap_or_default().trim_end();
        // The first word is the name, if there is one.
        let named = usize::from(!body.starts_with([' ', '\t']));
        let words: Vec<&str> = body.split_ascii_whitespace().collect();
        let is_octets = |at: usize| words.get(at + 1) == Some(&"\\#");
        let is_list = |at: usize| words[at].eq_ignore_ascii_case("APL");
        let mut places = named..words.len();
        let Some(at) = places.find(|&at| is_octets(at) || is_list(at)) else {
            return Ok(None);
        };
        if body.contains(['"', '(', '\n']) {
            return match is_octets(at) {
                true => Err("octets are to be on one line, without parentheses and quotes"),
                // The word is in a text.
                false => Ok(None),
            };
        }
        let kind = record_type(words[at]).ok_or("an unknown type")?;
        let octets = match &words[at + 1..] {
            ["\\#", length, hex @ ..] => octets(length, &hex.concat())?,
            ["\\#"] => return Err("the number of octets is missing"),
            items => list(items)?,
        };
        let data = data(kind, &octets)?;
        let head = words[named..at].join(" ");
        let name = if named == 1 { words[0] } else { "" };
        let text = format!("{name} {head} TXT \"{}{}\"", self.mark, self.data.len());
        self.data.push(data);
        Ok(Some(text))
    }

    /// Puts in the place of such a text what it stands for.
    pub(super) fn resolve(&self, record: Record) -> Record {
        match self.meant(&record.data) {
            Some(data) => Record::from_rdata(record.name, record.ttl, data.clone()),
            None => record,
        }
    }

    fn meant(&self, data: &RData) -> Option<&RData> {
        let RData::TXT(txt) = data else { return None };
        let [text] = &txt.txt_data[..] else {
            return None;
        };
        let number = text.strip_prefix(self.mark.as_bytes())?;
        let number: usize = std::str::from_utf8(number).ok()?.parse().ok()?;
        self.data.get(number)
    }
}

/// The type of this name or, as TYPE65280, number.
pub(crate) fn record_type(text: &str) -> Option<RecordType> {
    let number = text
        .strip_prefix("TYPE")
        .and_then(|n| n.parse::<u16>().ok());
    let unnamed = text.eq_ignore_ascii_case("APL").then_some(apl::TYPE);
    let known = unnamed.or(number).map(RecordType::from);
    known.or_else(|| text.parse().ok())
}

fn octets(length: &str, hex: &str) -> Result<Vec<u8>, &'static str> {
    let digits = hex.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    let octets: Option<Vec<u8>> = digits.collect();
    let octets = octets.ok_or("octets are pairs of hex digits")?;
    match length.parse::<usize>() {
        Ok(length) if octets.len() == length => Ok(octets),
        _ => Err("not as many octets as the number in front of them says"),
    }
}

fn list(items: &[&str]) -> Result<Vec<u8>, &'static str> {
    let prefix = |item: &&str| -> Option<IpNet> {
        let (family, prefix) = item.split_once(':')?;
        let prefix: IpNet = prefix.parse().ok()?;
        let own = if prefix.addr().is_ipv4() { "1" } else { "2" };
        (family == own && prefix.trunc() == prefix).then_some(prefix)
    };
    let prefixes: Option<Vec<IpNet>> = items.iter().map(prefix).collect();
    let prefixes = prefixes.ok_or("an item of APL is 1:192.0.2.0/24 or 2:2001:db8::/32")?;
    Ok(apl::encode(&prefixes))
}

/// What these octets are as data of a type, by way of a record on the wire.
fn data(kind: RecordType, octets: &[u8]) -> Result<RData, &'static str> {
    let length = u16::try_from(octets.len()).map_err(|_| "more octets than a record takes")?;
    let mut wire = vec![0];
    wire.extend(u16::from(kind).to_be_bytes());
    wire.extend(u16::from(DNSClass::IN).to_be_bytes());
    wire.extend([0; 4]);
    wire.extend(length.to_be_bytes());
    wire.extend(octets);
    let record = Record::from_bytes(&wire).map_err(|_| "octets that are no data of that type")?;
    // Whatever is not understood whole would be lost.
    let same = record.data.to_bytes().is_ok_and(|back| back == octets);
    same.then_some(record.data)
        .ok_or("octets that are no data of that type")
}
