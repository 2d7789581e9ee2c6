//! Which zone of the mapping service speaks for which home addresses. Pure.
//!
//! Zone 0 speaks for every home that no other zone speaks for; of several prefixes that hold a
//! home the longest counts. A zone is never asked about another one's homes, so its keys and
//! servers have no say over them.

use ipnet::IpNet;
use mat_proto::Home;

/// The prefixes of all zones but the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zoning {
    /// Longest first.
    prefixes: Vec<(IpNet, usize)>,
}

impl Zoning {
    /// Zone 1 speaks for the first list of prefixes, zone 2 for the second, and so on.
    pub fn new<'a>(others: impl IntoIterator<Item = &'a [IpNet]>) -> Self {
        let numbered = others.into_iter().zip(1..);
        let mut prefixes: Vec<_> = numbered
            .flat_map(|(homes, zone)| homes.iter().map(move |prefix| (*prefix, zone)))
            .collect();
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
        Zoning { prefixes }
    }

    /// The number of the zone that speaks for this home.
    pub fn of(&self, home: Home) -> usize {
        let holds = |(prefix, _): &&(IpNet, usize)| prefix.contains(&home.ip());
        self.prefixes
            .iter()
            .find(holds)
            .map_or(0, |(_, zone)| *zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_counts_and_the_first_zone_has_the_rest() {
        let prefixes = |texts: &[&str]| -> Vec<IpNet> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let one = prefixes(&["192.0.2.128/25", "2001:db8:1::/64"]);
        let two = prefixes(&["192.0.2.192/26"]);
        let zoning = Zoning::new([&one[..], &two[..]]);
        for (home, zone) in [
            ("192.0.2.1", 0),
            ("192.0.2.129", 1),
            ("192.0.2.200", 2),
            ("2001:db8:1::1", 1),
            ("2001:db8:2::1", 0),
        ] {
            assert_eq!(zoning.of(home.parse().unwrap()), zone, "{home}");
        }
        assert_eq!(Zoning::default().of("192.0.2.200".parse().unwrap()), 0);
    }
}
