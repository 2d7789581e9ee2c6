//! Where in the file something is wrong, and how that is said.

use std::fmt;
use std::io;
use std::ops::Range;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file itself cannot be read.
    #[error("{file}: cannot be read: {cause}; give the path of a readable file")]
    Read {
        /// Path as given.
        file: String,
        /// What the system said.
        cause: io::Error,
    },
    /// Its content is wrong; one line for each finding.
    #[error("{}", .0.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Finding>),
}

/// One thing that is wrong in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file's path, as given.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Dotted key; empty if the file is not TOML at that place.
    pub key: String,
    /// The text found there; empty if something is missing.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        match (self.key.as_str(), self.value.as_str()) {
            ("", "") => {}
            ("", text) | (text, "") => write!(f, "{text}: ")?,
            (key, value) => write!(f, "{key} = {value}: ")?,
        }
        write!(f, "{}; {}", self.problem, self.mend)
    }
}

/// The text of a configuration file with its name.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    file: &'a str,
    text: &'a str,
    example: &'static str,
}

impl<'a> Source<'a> {
    /// `example` is the name of the file that documents every key.
    pub fn new(file: &'a str, text: &'a str, example: &'static str) -> Self {
        Self {
            file,
            text,
            example,
        }
    }

    /// A finding about the text at `span`.
    pub fn finding(&self, key: &str, span: Range<usize>, problem: &str, mend: &str) -> Finding {
        Finding {
            file: self.file.to_owned(),
            line: self.line(span.start),
            key: key.to_owned(),
            value: self.shown(key, span),
            problem: problem.to_owned(),
            mend: mend.to_owned(),
        }
    }

    /// The finding for what the TOML reader refused.
    pub fn shape(&self, mut error: toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or(0..0);
        let problem = [
            ("\n", ", "),
            // A person's words for a type.
            ("expected i64", "expected a whole number without quotes"),
            (
                "expected a boolean",
                "expected true or false without quotes",
            ),
        ]
        .iter()
        .fold(error.message().to_owned(), |problem, (theirs, ours)| {
            problem.replace(theirs, ours)
        });
        // Without its input the error shows the key path instead of the line.
        error.set_input(None);
        let rendered = error.to_string();
        let path = rendered
            .lines()
            .find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'))
            .unwrap_or_default();
        let quoted = problem.split('`').nth(1).unwrap_or_default();
        let about_a_field =
            problem.starts_with("unknown field") || problem.starts_with("missing field");
        let key = match (path.is_empty(), about_a_field) {
            (true, true) => quoted.to_owned(),
            (false, true) if !path.ends_with(quoted) => format!("{path}.{quoted}"),
            (true, false) => self.key_on_line(span.start).to_owned(),
            _ => path.to_owned(),
        };
        let mend = if problem.starts_with("missing field") {
            &format!("add it ({} shows every key)", self.example)
        } else if problem.starts_with("unknown field") {
            "correct or remove it"
        } else if ["unknown variant", "invalid type", "invalid value"]
            .iter()
            .any(|start| problem.starts_with(start))
        {
            "write what is expected"
        } else {
            "correct the TOML here (strings need quotes, each key stands once)"
        };
        let mut finding = self.finding(&key, span, &problem, mend);
        if about_a_field {
            finding.value.clear();
        }
        ConfigError::Invalid(vec![finding])
    }

    fn line(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        1 + self.text.as_bytes()[..offset]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
    }

    /// What stands before the first `=` of the line around `offset`.
    fn key_on_line(&self, offset: usize) -> &str {
        let line = self.text.lines().nth(self.line(offset) - 1);
        let key = line.and_then(|line| line.split_once('='));
        key.map(|(key, _)| key.trim()).unwrap_or_default()
    }

    /// The text at `span` in one short line, never a secret.
    fn shown(&self, key: &str, span: Range<usize>) -> String {
        const LONGEST: usize = 60;
        if key.ends_with("secret") || key == "key" || key.ends_with(".key") {
            return String::new();
        }
        let text = self.text.get(span).unwrap_or_default();
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None => line,
        }
    }
}
