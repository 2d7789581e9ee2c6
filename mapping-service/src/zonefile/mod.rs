//! Zone files (RFC 1035 section 5): a zone as text, from and for any other server. Pure.
//!
//! # Limitations
//! hickory's parser misreads quoted strings in parentheses and escapes of three digits, so both
//! are refused, and so is `$INCLUDE`. What is printed with such escapes, other servers read, and
//! this one does not.

mod octets;

use std::fmt::Write as _;

use hickory_proto::rr::rdata::svcb::{SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable as _;
use hickory_proto::serialize::txt::{ParseError, Parser};
use mat_proto::apl;

use octets::StandIns;
pub(crate) use octets::record_type;

/// Why a text is no zone file.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {error}")]
pub struct ZoneFileError {
    /// Where the entry that cannot be read begins, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub error: ParseError,
}

/// The records of a zone file, those of one name and type together. Names that do not end in a
/// dot are relative to `origin`.
///
/// # Errors
/// The first entry that cannot be read.
pub fn parse(text: &str, origin: &Name) -> Result<Vec<Record>, ZoneFileError> {
    let entries = entries(text);
    let misread = |entry: &Entry| Some((entry.line, entry.misread?));
    if let Some((line, what)) = entries.iter().find_map(misread) {
        let error = ParseError::Message(what);
        return Err(ZoneFileError { line, error });
    }
    let mut stand_ins = StandIns::new(text);
    let mut readable = String::with_capacity(text.len());
    let mut start = 0;
    for entry in &entries {
        let own = &text[start..entry.end];
        start = entry.end;
        match stand_ins.put(own) {
            Ok(None) => readable.push_str(own),
            // Of one line, as before.
            Ok(Some(other)) => readable.extend([&other, "\n"]),
            Err(what) => {
                let (line, error) = (entry.line, ParseError::Message(what));
                return Err(ZoneFileError { line, error });
            }
        }
    }
    let (text, entries) = (readable.as_str(), self::entries(&readable));
    let read = |text: &str| Parser::new(text, None, Some(origin.clone())).parse();
    match read(text) {
        Ok((_, sets)) => Ok(sets
            .into_values()
            .flat_map(|set| set.into_parts().records)
            .map(|record| stand_ins.resolve(record))
            .collect()),
        Err(error) => {
            // The text up to an entry's end can be read, or not, by itself.
            let good = entries.partition_point(|entry| read(&text[..entry.end]).is_ok());
            let line = entries.get(good).map_or(1, |entry| entry.line);
            Err(ZoneFileError { line, error })
        }
    }
}

/// A line, or several if a parenthesis or a quoted string spans them.
struct Entry {
    /// The line it begins at, from 1.
    line: usize,
    /// The offset behind it.
    end: usize,
    /// What in it the parser would take for something else.
    misread: Option<&'static str>,
}

fn entries(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let (mut line, mut begin, mut start) = (1, 1, 0);
    let (mut depth, mut quoted, mut comment, mut escaped) = (0_u32, false, false, false);
    let (mut parenthesis, mut string, mut digits) = (false, false, false);
    let ends = text.char_indices().chain([(text.len(), '\n')]);
    for (at, c) in ends {
        match c {
            '\n' => {
                comment = false;
                line += 1;
                if (depth > 0 || quoted) && at < text.len() {
                    continue;
                }
                let end = text.len().min(at + 1);
                let include = text[start..end].trim_start().starts_with("$INCLUDE");
                let misread = match (digits, parenthesis && string, include) {
                    (true, ..) => Some("an escape of three digits is not understood"),
                    (_, true, _) => {
                        Some("a quoted string in parentheses is not understood: write one line")
                    }
                    (.., true) => Some("$INCLUDE is not understood: put the files together"),
                    _ => None,
                };
                entries.push(Entry {
                    line: begin,
                    end,
                    misread,
                });
                (begin, start) = (line, end);
                (parenthesis, string, digits) = (false, false, false);
            }
            _ if comment => {}
            c if std::mem::take(&mut escaped) => digits |= c.is_ascii_digit(),
            '\\' => escaped = true,
            '"' => {
                quoted = !quoted;
                string = true;
            }
            _ if quoted => {}
            ';' => comment = true,
            '(' => {
                depth += 1;
                parenthesis = true;
            }
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    entries
}

/// The record as a line of a zone file, with its whole name.
pub fn print(record: &Record) -> String {
    let (kind, data) = match &record.data {
        data @ (RData::A(_)
        | RData::AAAA(_)
        | RData::CNAME(_)
        | RData::NS(_)
        | RData::PTR(_)
        | RData::SOA(_)) => (record.record_type().to_string(), data.to_string()),
        RData::TXT(txt) => {
            let strings: Vec<String> = txt.txt_data.iter().map(|s| quoted(s)).collect();
            ("TXT".to_owned(), strings.join(" "))
        }
        RData::SVCB(svcb) if svcb.svc_params.iter().all(|(key, _)| is_plain(*key)) => {
            ("SVCB".to_owned(), print_svcb(svcb))
        }
        data => {
            let octets = data.to_bytes().unwrap_or_default();
            let mut text = format!("\\# {} ", octets.len());
            for octet in octets {
                // Writing into a String does not fail.
                let _ = write!(text, "{octet:02x}");
            }
            (format!("TYPE{}", u16::from(record.record_type())), text)
        }
    };
    format!(
        "{} {} IN {kind} {data}",
        print_name(&record.name),
        record.ttl
    )
}

/// The name of a type, in the words of RFC 3597 if it is not known here.
pub(crate) fn kind(kind: RecordType) -> String {
    match kind {
        RecordType::Unknown(code) if code == apl::TYPE => "APL".to_owned(),
        RecordType::Unknown(code) => format!("TYPE{code}"),
        kind => kind.to_string(),
    }
}

/// Octets beyond letters, digits, `-`, `_` and `*` are escaped (RFC 1035 section 5.1).
fn print_name(name: &Name) -> String {
    let mut text = String::new();
    for label in name {
        for &octet in label {
            match octet {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'*' => {
                    text.push(char::from(octet));
                }
                b'!'..=b'~' => text.extend(['\\', char::from(octet)]),
                _ => {
                    // Writing into a String does not fail.
                    let _ = write!(text, "\\{octet:03}");
                }
            }
        }
        text.push('.');
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

/// Whether [`print_svcb`] knows its form (RFC 9460 section 2.1).
fn is_plain(key: SvcParamKey) -> bool {
    use SvcParamKey::{Ipv4Hint, Ipv6Hint, Key, Port};
    matches!(key, Port | Ipv4Hint | Ipv6Hint | Key(_))
}

fn print_svcb(svcb: &SVCB) -> String {
    let mut text = format!("{} {}", svcb.svc_priority, svcb.target_name);
    for (key, value) in &svcb.svc_params {
        let value = match value {
            // A list is printed with a comma at its end.
            SvcParamValue::Ipv4Hint(hint) => hint.to_string().trim_end_matches(',').to_owned(),
            SvcParamValue::Ipv6Hint(hint) => hint.to_string().trim_end_matches(',').to_owned(),
            SvcParamValue::Unknown(octets) => quoted(&octets.0),
            other => other.to_string(),
        };
        // Writing into a String does not fail.
        let _ = write!(text, " {key}={value}");
    }
    text
}

/// A character string (RFC 1035 section 5.1).
fn quoted(octets: &[u8]) -> String {
    let mut text = String::from('"');
    for &octet in octets {
        match octet {
            b'"' | b'\\' => text.extend(['\\', char::from(octet)]),
            b' '..=b'~' => text.push(char::from(octet)),
            _ => {
                // Writing into a String does not fail.
                let _ = write!(text, "\\{octet:03}");
            }
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::tests::name;

    const TEXT: &str = r#"$TTL 5
; a comment (
@ IN SOA ns hostmaster ( 7 3600
    600 86400 2 )
10.2.0.192.h4 0 SVCB 1 . port=6283 ipv4hint=198.51.100.7 key65280="1795420470" key65281="native" key65282="30"
note TXT "one ; (" "two"
"#;

    #[test]
    fn what_is_printed_is_read_again() {
        let origin = name("map.example.");
        let records = parse(TEXT, &origin).unwrap();
        assert_eq!(records.len(), 3);
        let printed: Vec<String> = records.iter().map(print).collect();
        let again = parse(&(printed.join("\n") + "\n"), &origin).unwrap();
        assert_eq!(again, records, "{printed:#?}");
    }

    #[test]
    fn octets_of_any_kind_are_printed() {
        assert_eq!(quoted(b"a\"b\\c\n\xff"), r#""a\"b\\c\010\255""#);
        let data = RData::Unknown {
            code: 65_400.into(),
            rdata: hickory_proto::rr::rdata::NULL::with(vec![0, 0xab]),
        };
        let record = Record::from_rdata(name("x.map.example."), 7, data);
        assert_eq!(print(&record), r"x.map.example. 7 IN TYPE65400 \# 2 00ab");
    }

    #[test]
    fn octets_and_lists_of_prefixes_are_read() {
        let origin = name("map.example.");
        let text = "$TTL 5\n_home APL 1:192.0.2.0/24 2:2001:db8::/32 ; homes\n\
                    x 7 IN TYPE65400 \\# 2 00 ab\n  IN TYPE1 \\# 4 c0000201\nx A 192.0.2.2\n\
                    \t TXT \"an APL \\\\# 1\" stands-for-0\nempty TYPE65400 \\# 0\n\
                    *.2.0.192.h4 TXT x\n";
        let mut printed: Vec<String> = parse(text, &origin).unwrap().iter().map(print).collect();
        printed.sort();
        let wanted = [
            r"*.2.0.192.h4.map.example. 5 IN TXT x",
            r"_home.map.example. 5 IN TYPE42 \# 15 00011803c000020002200420010db8",
            r"empty.map.example. 5 IN TYPE65400 \# 0 ",
            r"x.map.example. 5 IN A 192.0.2.2",
            r"x.map.example. 5 IN A 192.0.2.1",
            r"x.map.example. 7 IN TYPE65400 \# 2 00ab",
        ];
        for line in wanted {
            assert!(
                printed.iter().any(|p| p.replace('"', "") == line),
                "{line}: {printed:#?}"
            );
        }
        let again = parse(&(printed.join("\n") + "\n"), &origin).unwrap();
        let mut again: Vec<String> = again.iter().map(print).collect();
        again.sort();
        assert_eq!(again, printed);
        for wrong in [
            "x TYPE65400 \\# 2 00",
            "x TYPE65400 \\# 1 0g",
            "x TYPE65400 \\#",
            "x TYPE1 \\# 3 c00002",
            "x NOTYPE \\# 0",
            "x APL 1:2001:db8::/32",
            "x APL !1:192.0.2.0/24",
            "x TYPE65400 ( \\# 1\n 00 )",
        ] {
            let error = parse(&format!("$TTL 5\n\n{wrong}\n"), &origin).unwrap_err();
            assert_eq!(error.line, 3, "{wrong}: {error}");
        }
    }

    #[test]
    fn a_mistake_is_named_by_its_line() {
        let origin = name("map.example.");
        for (from, to, line) in [
            ("$TTL 5", "$TTL x", 1),
            ("600 86400", "600 eighty", 3),
            ("198.51.100.7", "198.51.100.777", 5),
            ("note TXT", "note NOTYPE", 6),
        ] {
            let text = TEXT.replace(from, to);
            let error = parse(&text, &origin).unwrap_err();
            assert_eq!(error.line, line, "{to}: {error}");
        }
    }
}
