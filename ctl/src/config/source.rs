//! Where in the file something is wrong, and how that is said.

use std::ops::Range;

use super::{ConfigError, Finding};

/// The text of the file with its name.
pub(super) struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Source { file, text }
    }

    /// A finding about the text at `span`.
    pub fn finding(&self, key: &str, span: Range<usize>, problem: &str, mend: &str) -> Finding {
        let secret = key == "mapping.key.secret";
        let value = self.text.get(span.clone()).filter(|_| !secret);
        Finding {
            file: self.file.to_owned(),
            line: self.line(span.start),
            key: key.to_owned(),
            value: value
                .and_then(|text| text.lines().next())
                .unwrap_or_default()
                .to_owned(),
            problem: problem.to_owned(),
            mend: mend.to_owned(),
        }
    }

    /// The finding for what the TOML reader refused.
    pub fn shape(&self, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or(0..0);
        let problem = error.message().replace('\n', ", ");
        let mend = if problem.starts_with("missing field") {
            "add it (matctl.example.toml shows every key)"
        } else if problem.starts_with("unknown field") {
            "correct or remove it (matctl.example.toml shows every key)"
        } else if problem.starts_with("unknown variant") || problem.starts_with("invalid") {
            "write what is expected"
        } else {
            "correct the TOML here (strings need quotes, each key stands once)"
        };
        let mut finding = self.finding(self.key_on_line(span.start), span, &problem, mend);
        // The value may be a secret, and the problem quotes what matters.
        finding.value.clear();
        ConfigError::Invalid(vec![finding])
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// What stands before the first `=` of the line around `offset`.
    fn key_on_line(&self, offset: usize) -> &'a str {
        let line = self.text.lines().nth(self.line(offset) - 1);
        let key = line.and_then(|line| line.split_once('='));
        key.map(|(key, _)| key.trim()).unwrap_or_default()
    }
}
