//! Identifiers as newtypes. Ids are opaque text: uuid, bigint and words all occur in the field, so nothing is read into
//! them beyond the one rule of [`InvalidId`].

use std::fmt;

/// Longest id in bytes of UTF-8. Ids travel in URL paths, index rows and tokens; 128 bytes hold every usual form.
pub const ID_BYTES_MAX: usize = 128;

/// Why a text is not an id: ids are 1 to [`ID_BYTES_MAX`] bytes of printable UTF-8 without `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The text has no bytes.
    #[error("an id is empty")]
    Empty,
    /// The text is longer than [`ID_BYTES_MAX`] bytes.
    #[error("an id has {0} bytes; at most {ID_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The text holds a slash or a control character (NUL among them, which Postgres refuses in text).
    #[error("an id holds {0:?}; ids are printable text without '/'")]
    Character(char),
}

fn check(text: &str) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.len() > ID_BYTES_MAX {
        return Err(InvalidId::TooLong(text.len()));
    }
    match text.chars().find(|c| *c == '/' || c.is_control()) {
        Some(c) => Err(InvalidId::Character(c)),
        None => Ok(()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks the text against the rule of ids and keeps it unchanged.
            pub fn new(text: impl Into<Box<str>>) -> Result<Self, InvalidId> {
                let text = text.into();
                check(&text)?;
                Ok(Self(text))
            }

            /// The text as it came.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// A site of the source table; the key of the view. Ordered by bytes, as `collate "C"` orders it.
    SiteId
);
id!(
    /// An app that can be installed on sites.
    AppId
);
id!(
    /// One installation of an app on a site.
    InstanceId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_printable_text_of_at_most_128_bytes_without_slash() {
        let longest = "€".repeat(42);
        for good in ["42", "b8a1-…", "żółw 🐢 +%?#&=", "dot..", " ", longest.as_str(), &"x".repeat(128)] {
            assert!(SiteId::new(good).is_ok(), "{good:?}");
        }
        for (bad, why) in [
            ("", InvalidId::Empty),
            ("a/b", InvalidId::Character('/')),
            ("a\0b", InvalidId::Character('\0')),
            ("a\nb", InvalidId::Character('\n')),
            ("\u{7f}", InvalidId::Character('\u{7f}')),
            ("\u{85}", InvalidId::Character('\u{85}')),
            (&"x".repeat(129), InvalidId::TooLong(129)),
            (&"€".repeat(43), InvalidId::TooLong(129)),
        ] {
            assert_eq!(SiteId::new(bad), Err(why), "{bad:?}");
        }
    }
}
