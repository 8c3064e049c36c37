//! Names: whatever people are called.

use unicode_normalization::UnicodeNormalization as _;

use super::Wrong;

const CHARS_MAX: usize = 200;

/// The name in NFC, with single spaces; `None` where there is none.
pub(super) fn read(field: &str) -> Result<Option<String>, Wrong> {
    let name = field.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.chars().any(char::is_control) {
        return Err(Wrong::new("name-invalid", "the name holds a control character"));
    }
    let name: String = name.nfc().collect();
    if name.chars().count() > CHARS_MAX {
        return Err(Wrong::new("name-too-long", format!("a name has at most {CHARS_MAX} characters")));
    }
    Ok(Some(name).filter(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_form() {
        for (field, expected) in [
            (" Ada \u{a0} Lovelace\n", Ok(Some("Ada Lovelace"))),
            ("Zoe\u{308}", Ok(Some("Zoë"))),
            ("🐢", Ok(Some("🐢"))),
            ("  ", Ok(None)),
            ("a\0b", Err("name-invalid")),
            ("a\u{7}b", Err("name-invalid")),
            (&"x".repeat(201), Err("name-too-long")),
        ] {
            let read = read(field);
            assert_eq!(read.as_ref().map(Option::as_deref).map_err(|wrong| wrong.code), expected, "{field:?}");
        }
    }
}
