//! Phone numbers, in E.164: `+` and at most 15 digits.

use std::{borrow::Cow, str::FromStr};

use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumberFormat, enums::Region};

use super::Wrong;

/// More than anybody writes: 15 digits with a separator behind each, and an extension.
const BYTES_MAX: usize = 60;

/// Where a number without a country is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Country(Region);

impl FromStr for Country {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_known = |region: &Region| PHONE_NUMBER_UTIL.get_supported_regions().any(|known| known == *region);
        let region = text.parse().ok().filter(is_known);
        region.map(Self).ok_or_else(|| "must be a code of ISO 3166 with two letters, such as DE".to_owned())
    }
}

/// The number in E.164; `None` where there is none.
pub(super) fn read(field: &str, country: Option<Country>) -> Result<Option<String>, Wrong> {
    let field = field.trim();
    if field.is_empty() {
        return Ok(None);
    }
    let wrong = |why: &str| Wrong::new("phone-invalid", why);
    if field.len() > BYTES_MAX || field.chars().any(char::is_control) {
        return Err(wrong("this is not a phone number"));
    }
    let parsed = PHONE_NUMBER_UTIL.parse(international(field), country.map(|country| country.0));
    match parsed {
        Ok(number) if number.is_valid() => Ok(Some(number.format_as(PhoneNumberFormat::E164).into_owned())),
        Ok(_) => Err(wrong("no such phone number can exist in its country")),
        Err(_) if country.is_none() && !field.starts_with(['+', '0']) => {
            Err(wrong("this is not a phone number with its country, such as +44 20 7946 0958"))
        }
        Err(_) => Err(wrong("this is not a phone number")),
    }
}

/// Most of the world dials 00 for what is written +; where something else is dialled the country says so.
fn international(field: &str) -> Cow<'_, str> {
    match field.strip_prefix("00") {
        Some(rest) => Cow::Owned(format!("+{rest}")),
        None => Cow::Borrowed(field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_form() {
        let german: Country = "DE".parse().unwrap();
        for (field, country, expected) in [
            ("+44 20 7946 0958", None, Ok(Some("+442079460958"))),
            ("0044 (0)20 7946-0958", None, Ok(Some("+442079460958"))),
            ("+1 (212) 555-0123", None, Ok(Some("+12125550123"))),
            ("030 123456", Some(german), Ok(Some("+4930123456"))),
            ("+48 22 123 45 67", Some(german), Ok(Some("+48221234567"))),
            ("", None, Ok(None)),
            ("030 123456", None, Err("phone-invalid")),
            ("12", Some(german), Err("phone-invalid")),
            ("+999 123456", None, Err("phone-invalid")),
            ("+44 1", None, Err("phone-invalid")),
            ("call me", None, Err("phone-invalid")),
            ("+44\u{0}20", None, Err("phone-invalid")),
            (&"+4420".repeat(20), None, Err("phone-invalid")),
        ] {
            let read = read(field, country);
            assert_eq!(read.as_ref().map(Option::as_deref).map_err(|wrong| wrong.code), expected, "{field:?}");
        }
    }
}
