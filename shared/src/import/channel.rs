//! Channels: what a browser is told travels under an id that cannot be guessed, and that only the notifier can make.
//!
//! The text is `<random>.<expiry>.<mac>`: 128 random bits, seconds since 1970, and the HMAC-SHA256 of both, random bits and mac in
//! base64url. Who knows the id may listen and may import in its name, so it is kept out of logs.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::config::{Invalid, Secret};

/// Fewest bytes of the secret: as many as the mac has.
pub const CHANNEL_SECRET_BYTES_MIN: usize = 32;
/// Longest text of an id: 22 + 20 + 43 characters and two dots.
const TEXT_BYTES_MAX: usize = 87;

/// Why a text is no channel of this system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Not made with this secret, or not an id at all.
    #[error("the channel id was not made by this notifier")]
    Forged,
    /// It was good until a moment ago.
    #[error("the channel has expired; ask for a new one")]
    Expired,
}

/// A channel whose mac was checked when it came in.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ChannelId(Box<str>);

impl ChannelId {
    /// As it stands in URLs and in keys of records.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Never the text: an id in a log would let its readers listen.
impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelId(***)")
    }
}

/// Makes channels and checks them. The notifier and jobs have the same one.
#[derive(Clone)]
pub struct ChannelSecret(Hmac<Sha256>);

impl fmt::Debug for ChannelSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelSecret(***)")
    }
}

impl ChannelSecret {
    /// From the value of `CHANNEL_SECRET`; one that is shorter than [`CHANNEL_SECRET_BYTES_MIN`] can be guessed and is refused.
    pub fn new(secret: &Secret) -> Result<Self, Invalid> {
        let bytes = secret.expose().as_bytes();
        if bytes.len() < CHANNEL_SECRET_BYTES_MIN {
            let why = format!("has {} bytes; at least {CHANNEL_SECRET_BYTES_MIN} are wanted", bytes.len());
            return Err(Invalid::new("CHANNEL_SECRET", why));
        }
        Ok(Self(Hmac::new_from_slice(bytes).expect("an HMAC takes a key of any length")))
    }

    /// A new channel, good until this moment. `random` comes from a generator that cannot be predicted.
    pub fn make(&self, random: [u8; 16], expires_unix_s: u64) -> ChannelId {
        let signed = format!("{}.{expires_unix_s}", BASE64_URL_SAFE_NO_PAD.encode(random));
        let mac = self.0.clone().chain_update(&signed).finalize().into_bytes();
        ChannelId(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac)).into())
    }

    /// Checks an id. How long it takes tells nothing about the mac.
    pub fn check(&self, text: &str, now_unix_s: u64) -> Result<ChannelId, ChannelError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(ChannelError::Forged);
        }
        let (signed, mac) = text.rsplit_once('.').ok_or(ChannelError::Forged)?;
        let mac = BASE64_URL_SAFE_NO_PAD.decode(mac).map_err(|_| ChannelError::Forged)?;
        self.0.clone().chain_update(signed).verify_slice(&mac).map_err(|_| ChannelError::Forged)?;
        let expiry = signed.rsplit_once('.').and_then(|(_, expiry)| expiry.parse::<u64>().ok());
        match expiry.ok_or(ChannelError::Forged)? > now_unix_s {
            true => Ok(ChannelId(text.into())),
            false => Err(ChannelError::Expired),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> ChannelSecret {
        ChannelSecret::new(&Secret::from(text.to_owned())).expect("long enough")
    }

    #[test]
    fn only_what_was_made_with_the_secret_and_has_not_expired_is_a_channel() {
        let own = secret("0123456789abcdef0123456789abcdef");
        let made = own.make([7; 16], 1000);
        assert_eq!(own.check(made.as_str(), 999), Ok(made.clone()));
        assert_eq!(own.check(made.as_str(), 1000), Err(ChannelError::Expired));
        let foreign = secret("an entirely different secret text").make([7; 16], 1000);
        let later = made.as_str().replace(".1000.", ".9000.");
        let longer = format!("{}{}", made.as_str(), "A".repeat(100));
        for text in ["", ".", "..", "a.b.c", foreign.as_str(), &later, &longer, &made.as_str()[..60]] {
            assert_eq!(own.check(text, 0), Err(ChannelError::Forged), "{text}");
        }
        assert_eq!(format!("{made:?}"), "ChannelId(***)");
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(ChannelSecret::new(&Secret::from("x".repeat(31))).is_err());
    }

    #[test]
    fn the_longest_id_passes() {
        let own = secret("0123456789abcdef0123456789abcdef");
        let made = own.make([255; 16], u64::MAX);
        assert_eq!(made.as_str().len(), TEXT_BYTES_MAX);
        assert_eq!(own.check(made.as_str(), 0), Ok(made));
    }
}
