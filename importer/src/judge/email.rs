//! E-mail addresses: the key of a contact.

use email_address::{EmailAddress, Options};
use unicode_normalization::UnicodeNormalization as _;

use super::Wrong;

/// RFC 5321, 4.5.3.1.3, without the angle brackets.
const BYTES_MAX: usize = 254;

/// The address in lower case: no provider in use tells `Ada@` from `ada@`, and people write both.
pub(super) fn read(field: &str) -> Result<String, Wrong> {
    let field = field.trim();
    if field.is_empty() {
        return Err(Wrong::new("email-missing", "the row has no e-mail address"));
    }
    if field.len() > BYTES_MAX {
        return Err(Wrong::new("email-too-long", format!("an e-mail address has at most {BYTES_MAX} bytes")));
    }
    // Somebody who can be written to from here: no display name, no address of a machine, and a domain with a dot in it.
    let options = Options::default().without_display_text().without_domain_literal().with_required_tld();
    match EmailAddress::parse_with_options(field, options) {
        Ok(_) if !field.chars().any(char::is_control) => Ok(field.nfc().collect::<String>().to_lowercase()),
        Ok(_) => Err(Wrong::new("email-invalid", "this is not an e-mail address: it holds a control character")),
        Err(error) => Err(Wrong::new("email-invalid", format!("this is not an e-mail address: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_written_to_is_an_address() {
        for (field, expected) in [
            ("ada@example.org", Ok("ada@example.org")),
            ("  Ada.Lovelace+x@Example.ORG\t", Ok("ada.lovelace+x@example.org")),
            ("żółw@żółw.example", Ok("żółw@żółw.example")),
            ("e\u{301}@example.org", Ok("é@example.org")),
            ("", Err("email-missing")),
            (" ", Err("email-missing")),
            ("ada", Err("email-invalid")),
            ("ada@localhost", Err("email-invalid")),
            ("ada@[127.0.0.1]", Err("email-invalid")),
            ("Ada <ada@example.org>", Err("email-invalid")),
            ("a b@example.org", Err("email-invalid")),
            ("a@b@example.org", Err("email-invalid")),
            ("ada@example..org", Err("email-invalid")),
            ("a\0@example.org", Err("email-invalid")),
            (&format!("{}@example.org", "x".repeat(300)), Err("email-too-long")),
        ] {
            assert_eq!(read(field).as_deref().map_err(|wrong| wrong.code), expected, "{field:?}");
        }
    }
}
