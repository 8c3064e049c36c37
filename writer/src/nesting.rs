//! How deep JSON may be nested.

use crate::rejection::{Reason, Rejection};

/// Most arrays and objects of a record that stand in each other. Documents go on to parsers of others, which end at about
/// this depth or earlier; Jackson, with which Debezium and Kafka Connect write, refuses more by default.
pub const NESTING_MAX: usize = 1000;

/// Rejects JSON text that is nested deeper than [`NESTING_MAX`]. What stands in strings does not count.
pub fn check(json: &[u8]) -> Result<(), Rejection> {
    // Text with few brackets can't be deep, and nearly all text has few: counting them is cheap, following them is not.
    if openings(json) <= NESTING_MAX || depth(json) <= NESTING_MAX {
        return Ok(());
    }
    let detail = format!("the JSON is nested deeper than {NESTING_MAX} levels, which is the limit");
    Err(Rejection::new(Reason::InvalidJson, detail))
}

fn openings(json: &[u8]) -> usize {
    let of_chunk = |chunk: &[u8]| chunk.iter().map(|byte| u8::from(matches!(byte, b'[' | b'{'))).sum::<u8>();
    // As many as a byte can count: the compiler then compares and adds 16 bytes or more at once.
    json.chunks(usize::from(u8::MAX)).map(|chunk| usize::from(of_chunk(chunk))).sum()
}

/// The greatest depth; of text that is not JSON, some number.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string) = (0_usize, 0, false);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match (in_string, byte) {
            (true, b'\\') => drop(bytes.next()),
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_what_stands_in_each_other_and_not_in_strings() {
        for (json, expected) in [
            ("", 0),
            ("7", 0),
            ("[]", 1),
            (r#"[{"a":[]},{}]"#, 3),
            (r#"["[[[[", "\"[[", "\\"]"#, 1),
            (r#"{"[":"]"}"#, 1),
            ("]]][", 1),
            ("\"[[[[", 0),
        ] {
            assert_eq!(depth(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn the_limit_is_reached_before_it_is_exceeded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(check(nested(NESTING_MAX).as_bytes()), Ok(()));
        let rejection = check(nested(NESTING_MAX + 1).as_bytes()).expect_err("too deep");
        assert_eq!(rejection.reason, Reason::InvalidJson);
        assert!(rejection.detail.contains("1000"), "{rejection}");
        assert_eq!(check("[]".repeat(10 * NESTING_MAX).as_bytes()), Ok(()), "many beside each other");
    }
}
