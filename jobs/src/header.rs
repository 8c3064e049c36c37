//! Which column is what: by the header's names, or as the client says.

use serde::Serialize;
use shared::import::Columns;

use crate::refusal::Refusal;

/// Names as they are usually written, without case, spaces and signs; of several columns the first counts.
const EMAIL: [&str; 7] = ["email", "emailaddress", "mail", "emailadresse", "correo", "courriel", "emails"];
const NAME: [&str; 8] = ["name", "fullname", "contactname", "contact", "displayname", "customername", "nombre", "nom"];
const PHONE: [&str; 9] =
    ["phone", "phonenumber", "telephone", "tel", "mobile", "mobilephone", "cellphone", "telefon", "phones"];

/// Names of columns as the client says them, as they stand in the header; empty is none at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) email: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) phone: Option<String>,
}

/// A column as the preview shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Column {
    pub(crate) title: String,
    /// `email`, `name`, `phone`; none of an import's otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) holds: Option<&'static str>,
}

/// Finds the columns. An e-mail column must be there: it is the contact's key.
pub(crate) fn columns(header: &[String], line: u64, asked: &Asked) -> Result<Columns, Refusal> {
    let email = find(header, line, "email", &asked.email, &EMAIL)?;
    let name = find(header, line, "name", &asked.name, &NAME)?;
    let phone = find(header, line, "phone", &asked.phone, &PHONE)?;
    let Some(email) = email else {
        let titles = header.iter().take(20).map(|title| format!("{title:.40?}")).collect::<Vec<_>>().join(", ");
        let why =
            format!("no column is for e-mail addresses: the header has {titles}; the first row must be the header");
        return Err(Refusal::at(line, "no-email-column", why));
    };
    Ok(Columns { email, name, phone })
}

/// The header with what its columns hold.
pub(crate) fn described(header: &[String], columns: Columns) -> Vec<Column> {
    let holds = |at| match at {
        at if at == columns.email => Some("email"),
        at if Some(at) == columns.name => Some("name"),
        at if Some(at) == columns.phone => Some("phone"),
        _ => None,
    };
    header.iter().enumerate().map(|(at, title)| Column { title: title.clone(), holds: holds(at) }).collect()
}

fn find(
    header: &[String],
    line: u64,
    what: &str,
    asked: &Option<String>,
    known: &[&str],
) -> Result<Option<usize>, Refusal> {
    match asked.as_deref() {
        Some("") => Ok(None),
        Some(title) => match header.iter().position(|found| found == title) {
            Some(at) => Ok(Some(at)),
            None => {
                Err(Refusal::at(line, "no-such-column", format!("the header has no column {title:.40?} for {what}")))
            }
        },
        None => Ok(header.iter().position(|title| known.contains(&plain(title).as_str()))),
    }
}

fn plain(title: &str) -> String {
    title.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(titles: &[&str]) -> Vec<String> {
        titles.iter().map(|title| (*title).to_owned()).collect()
    }

    #[test]
    fn usual_names_are_known_and_the_clients_word_wins() {
        let titles = header(&["Full Name", "E-Mail", "Work mail", "Tel."]);
        let of = |asked: Asked| columns(&titles, 1, &asked);
        assert_eq!(of(Asked::default()), Ok(Columns { email: 1, name: Some(0), phone: Some(3) }));
        let asked = Asked { email: Some("Work mail".to_owned()), name: Some(String::new()), phone: None };
        assert_eq!(of(asked), Ok(Columns { email: 2, name: None, phone: Some(3) }));
        let other = Asked { email: Some("Nobody".to_owned()), ..Asked::default() };
        assert_eq!(of(other).unwrap_err().code, "no-such-column");
        let refused = columns(&header(&["a", "b"]), 3, &Asked::default()).unwrap_err();
        assert_eq!((refused.code, refused.line), ("no-email-column", Some(3)));
        assert!(refused.why.contains("\"a\", \"b\""), "{refused}");
    }
}
