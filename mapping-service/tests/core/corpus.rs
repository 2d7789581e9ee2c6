//! What fuzzing has found (`make fuzz`), and small changes of it, through all that reads what
//! strangers or a disk have written.

use std::path::Path;

use mat_mapping::exercise;

/// Changes of each input.
const CHANGES: u64 = 30;

/// Numbers, the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

fn replay(target: &str, exercise: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut inputs: Vec<Vec<u8>> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 4, "the corpus of {target} is not there");
    let mut numbers = Numbers(1);
    for n in 0..inputs.len() {
        exercise(&inputs[n]);
        for _ in 0..CHANGES {
            exercise(&changed(&inputs[n], &inputs, &mut numbers));
        }
    }
}

fn changed(input: &[u8], others: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut octets = input.to_vec();
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(octets.len());
        match numbers.below(5) {
            0 => octets.truncate(at),
            1 => octets.insert(at.min(octets.len()), numbers.below(256) as u8),
            2 => {
                let other = &others[numbers.below(others.len())];
                octets.truncate(at);
                octets.extend(&other[numbers.below(other.len())..]);
            }
            3 if at < octets.len() => octets[at] = [0, 1, 0x3f, 0xc0, 0xff][numbers.below(5)],
            _ if at < octets.len() => octets[at] ^= 1 << numbers.below(8),
            _ => {}
        }
    }
    octets
}

#[test]
fn messages() {
    replay("message", exercise::message);
}

#[test]
fn updates() {
    replay("update", exercise::update);
}

#[test]
fn sessions() {
    replay("session", exercise::session);
}

#[test]
fn journals() {
    replay("journal", exercise::journal);
}
