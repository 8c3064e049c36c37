//! Rows that are no contacts, of every kind that has a code.

use rand::RngExt;
use rand::rngs::StdRng;

/// A row, and what must be said of it, by column.
pub(super) struct Bad {
    pub(super) fields: Vec<String>,
    pub(super) faults: Vec<(&'static str, &'static str)>,
}

pub(super) fn draw(rng: &mut StdRng) -> Bad {
    let number = rng.random_range(0..1_000_000);
    let (name, email, phone) = ("Bad Row".to_owned(), format!("bad.{number}@example.org"), "+49 30 2345678".to_owned());
    let one = |texts: &[&str], rng: &mut StdRng| texts[rng.random_range(0..texts.len())].to_owned();
    let (fields, faults): (Vec<String>, &[_]) = match rng.random_range(0..11) {
        0 => (vec![name, one(&["", "  "], rng), phone], &[("email", "email-missing")]),
        1 | 2 => {
            let texts = ["nobody", "a@b@example.org", "ada@localhost", "a b@example.org", "Ada <ada@example.org>"];
            (vec![name, one(&texts, rng), phone], &[("email", "email-invalid")])
        }
        3 => (vec![name, format!("{}@example.org", "x".repeat(260)), phone], &[("email", "email-too-long")]),
        4 => (vec![format!("Bell\u{7} {number}"), email, phone], &[("name", "name-invalid")]),
        5 => (vec!["x".repeat(201), email, phone], &[("name", "name-too-long")]),
        6 | 7 => {
            let texts = ["12", "+999 123456", "call me", "030 123456", "+44 1"];
            (vec![name, email, one(&texts, rng)], &[("phone", "phone-invalid")])
        }
        8 => (vec![name, email], &[("row", "fields-differ")]),
        9 => (vec![name, email, phone, "more".to_owned()], &[("row", "fields-differ")]),
        _ => {
            let faults = &[("email", "email-missing"), ("name", "name-invalid"), ("phone", "phone-invalid")];
            (vec!["=1+1\u{7}\nof two lines".to_owned(), String::new(), "-1;=2".to_owned()], faults)
        }
    };
    Bad { fields, faults: faults.to_vec() }
}
