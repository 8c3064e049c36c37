//! People: their contact in the one form that is kept, and the many in which they are written.

use rand::RngExt;
use rand::rngs::StdRng;

/// As it stands in an address, in NFC, and decomposed.
const FIRST: [[&str; 3]; 6] = [
    ["ada", "Ada", "Ada"],
    ["zoe", "Zoë", "Zoe\u{308}"],
    ["jose", "José", "Jose\u{301}"],
    ["lukasz", "Łukasz", "Łukasz"],
    ["grace", "Grace", "Grace"],
    ["bjork", "Björk", "Bjo\u{308}rk"],
];
const FAMILY: [&str; 5] = ["Lovelace", "O'Brien", "van der Berg", "Doe, Jr.", "\"Ace\" Smith"];
const DOMAINS: [&str; 3] = ["example.org", "example.com", "mail.example.net"];
/// Country and area, apart and together: each is valid with any seven digits behind it that begin with 2 to 8.
const AREAS: [[&str; 2]; 4] = [["49", "30"], ["44", "207"], ["1", "212"], ["48", "22"]];

/// A person by number. Nobody has the address of another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Person(pub(super) u64);

/// As it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contact {
    pub(super) email: String,
    pub(super) name: Option<String>,
    pub(super) phone: Option<String>,
}

impl Person {
    /// Whose address it is.
    pub(super) fn of_email(email: &str) -> Option<Self> {
        let (_, number) = email.split_once('@')?.0.split_once('.')?;
        number.parse().ok().map(Self)
    }

    /// The contact in its one form. Each version of a person has another name.
    pub(super) fn contact(self, version: u32) -> Contact {
        Contact { email: self.email(), name: self.name(version, 1), phone: self.phone(version, "+", "") }
    }

    /// Name, address and phone number as somebody may write them.
    pub(super) fn written(self, version: u32, rng: &mut StdRng, end_of_line: &str) -> [String; 3] {
        let name = match rng.random_range(0..10) {
            0 => self.name(version, 1).map(|name| name.replacen(' ', "   ", 1)),
            1 => self.name(version, 1).map(|name| name.replacen(' ', end_of_line, 1)),
            2 => self.name(version, 1).map(|name| format!(" {name} ")),
            3 => self.name(version, 2),
            _ => self.name(version, 1),
        };
        let email = match rng.random_range(0..6) {
            0 => self.email().to_uppercase(),
            1 => format!(" {} ", self.email()),
            _ => self.email(),
        };
        let phone = match rng.random_range(0..4) {
            0 => self.phone(version, "00", " "),
            1 => self.phone(version, "+", "-"),
            2 => self.phone(version, "+", " "),
            _ => self.phone(version, "+", ""),
        };
        [name.unwrap_or_default(), email, phone.unwrap_or_default()]
    }

    fn email(self) -> String {
        format!("{}.{}@{}", self.first()[0], self.0, DOMAINS[(self.0 / 7 % 3) as usize])
    }

    fn first(self) -> [&'static str; 3] {
        FIRST[(self.0 % FIRST.len() as u64) as usize]
    }

    /// `form` as [`FIRST`] has them.
    fn name(self, version: u32, form: usize) -> Option<String> {
        let name = format!("{} {}", self.first()[form], FAMILY[(self.0 / 11 % FAMILY.len() as u64) as usize]);
        match version {
            0 if self.0.is_multiple_of(13) => None,
            0 => Some(name),
            version => Some(format!("{name} {version}")),
        }
    }

    fn phone(self, version: u32, international: &str, between: &str) -> Option<String> {
        let [country, area] = AREAS[(self.0 % AREAS.len() as u64) as usize];
        let digits = 2_000_000 + (self.0 * 7919 + u64::from(version) * 104_729) % 7_000_000;
        (!self.0.is_multiple_of(5)).then(|| format!("{international}{country}{between}{area}{between}{digits}"))
    }
}
