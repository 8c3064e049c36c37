//! Which dead letters are of one kind: same reason, same text but for what differs from record to record. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Characters of a text that tell kinds apart; what follows mostly quotes the record.
const PATTERN_CHARS_MAX: usize = 200;
/// Bytes of the hash that are kept: enough to tell the kinds of one topic apart, short enough to be typed.
const BYTES: usize = 4;

/// Names a kind of dead letters: eight hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Of a reason and the pattern of a text.
    pub fn of(reason: &str, pattern: &str) -> Self {
        let hash = Sha256::new().chain_update(reason).chain_update([0]).chain_update(pattern).finalize();
        Self(hash[..BYTES].iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl From<String> for Fingerprint {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text without what differs from record to record: quoted parts become `…`, words with a digit `#`.
pub fn pattern(text: &str) -> String {
    let mut pattern = String::new();
    let mut rest = text;
    let mut taken = 0;
    while let Some(first) = rest.chars().next() {
        if taken >= PATTERN_CHARS_MAX {
            break;
        }
        let after_word = pattern.ends_with(char::is_alphanumeric);
        let (part, length) = match first {
            '"' | '`' => quoted(rest, first),
            '\'' if !after_word => quoted(rest, first),
            _ if first.is_alphanumeric() => word(rest),
            _ if first.is_whitespace() => (" ".to_owned(), rest.len() - rest.trim_start().len()),
            _ => (first.to_string(), first.len_utf8()),
        };
        taken += part.chars().count();
        pattern.push_str(&part);
        rest = &rest[length..];
    }
    pattern.trim().to_owned()
}

/// A quoted part without what it quotes; a quote that is never closed stands for itself.
fn quoted(text: &str, quote: char) -> (String, usize) {
    match text[1..].find(quote) {
        Some(end) => (format!("{quote}…{quote}"), end + 2),
        None => (quote.to_string(), 1),
    }
}

/// A word, or `#` for one with a digit: numbers, ids, times. Hyphens hold an id together.
fn word(text: &str) -> (String, usize) {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let end = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
    if !text[..end].contains(|c: char| c.is_ascii_digit()) {
        return (text[..end].to_owned(), end);
    }
    let is_id = |c: char| is_word(c) || ['-', ':', '.'].contains(&c);
    let end = text.find(|c: char| !is_id(c)).unwrap_or(text.len());
    let id = text[..end].trim_end_matches([':', '.', '-']);
    ("#".to_owned(), id.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_lacks_what_differs_from_record_to_record() {
        for (text, expected) in [
            ("not now", "not now"),
            ("order 17 of user 4711 is unknown", "order # of user # is unknown"),
            ("expected `,` at line 3 column 12", "expected `…` at line # column #"),
            ("invalid type: string \"a b\", expected i64", "invalid type: string \"…\", expected #"),
            ("can't reach 10.0.0.7:9092: refused", "can't reach #: refused"),
            ("site 018f-3b7c 's apps", "site # 's apps"),
            ("id 0191d5b0-7c1e-7cc2-b1de-5ad4a8c2c0f1 twice", "id # twice"),
            ("  many\n\nblanks ", "many blanks"),
            ("open \" quote", "open \" quote"),
            ("", ""),
        ] {
            assert_eq!(pattern(text), expected);
        }
        assert_eq!(pattern(&"x ".repeat(500)).chars().count(), PATTERN_CHARS_MAX - 1);
        assert_eq!(pattern("ż'ółw'"), "ż'ółw'");
    }

    #[test]
    fn reasons_and_patterns_make_fingerprints() {
        let of = |reason: &str, text: &str| Fingerprint::of(reason, &pattern(text));
        assert_eq!(of("away", "order 1"), of("away", "order 2"));
        assert_ne!(of("away", "order 1"), of("bad", "order 1"));
        assert_ne!(of("a", "b"), of("ab", ""));
        assert_eq!(of("away", "order 1").to_string().len(), 8);
    }
}
