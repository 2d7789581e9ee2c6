//! News into as few PUSH messages as they fit into. Pure.

use crate::dso::{MAX_PUSH, Message, News, Tlv};

/// The messages that tell `groups`, each in one message if at all possible.
pub(crate) fn pack(groups: impl Iterator<Item = Vec<News>>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut current = Vec::new();
    for group in groups {
        let emit = |news: &News| {
            let mut octets = Vec::new();
            // What has no wire form has never come over a wire.
            news.emit(&mut octets).unwrap_or_default();
            octets
        };
        let parts: Vec<Vec<u8>> = group.iter().map(emit).collect();
        let whole: usize = parts.iter().map(Vec::len).sum();
        let parts = match whole <= ROOM {
            true => vec![parts.concat()],
            false => parts,
        };
        for part in parts {
            if current.len() + part.len() > ROOM {
                messages.extend(message(std::mem::take(&mut current)));
            }
            current.extend(part);
        }
    }
    messages.extend(message(current));
    messages
}

/// Beside the header of the message and that of its TLV.
const ROOM: usize = MAX_PUSH - 16;

fn message(news: Vec<u8>) -> Option<Vec<u8>> {
    if news.is_empty() {
        return None;
    }
    let length = u16::try_from(news.len()).ok()?;
    let empty = Message::Unidirectional {
        code: 0,
        tlv: Tlv::Push(Vec::new()),
    };
    let mut octets = empty.emit()?;
    let at = octets.len() - 2;
    octets[at..].copy_from_slice(&length.to_be_bytes());
    octets.extend(news);
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::tests::name;
    use hickory_proto::rr::rdata::TXT;
    use hickory_proto::rr::{RData, Record};

    fn news(n: usize, length: usize) -> News {
        let text = "x".repeat(255);
        let texts = vec![text; length / 256];
        let data = RData::TXT(TXT::new(texts));
        News::Added(Record::from_rdata(
            name(&format!("n{n}.map.example.")),
            0,
            data,
        ))
    }

    #[test]
    fn groups_stay_together_and_messages_stay_small() {
        let groups = [
            vec![news(1, 4096), news(2, 4096)],
            vec![news(3, 4096), news(4, 4096)],
            vec![news(5, 256)],
            (6..14).map(|n| news(n, 4096)).collect(),
        ];
        let messages = pack(groups.iter().cloned());
        let told: Vec<Vec<News>> = messages
            .iter()
            .map(|octets| match Message::parse(octets) {
                Ok(Message::Unidirectional {
                    tlv: Tlv::Push(news),
                    ..
                }) => news,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told.concat(), groups.concat());
        assert_eq!(told[0], groups[0]);
        assert_eq!(told[1][..2], groups[1]);
        assert!(messages.iter().all(|octets| octets.len() <= MAX_PUSH));
        assert_eq!(pack(std::iter::empty()), Vec::<Vec<u8>>::new());
    }
}
