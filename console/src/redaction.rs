//! What of records and errors nobody may see here, whatever their role: rules in a file, applied before anything is shown.
//!
//! ```toml
//! [[rule]]
//! topics = ["payments.*"]          # names; a last `*` stands for any rest
//! fields = ["/card/number", "/payers/*/email"]   # pointers into values that are JSON objects; `*` is any member
//! headers = ["x-customer"]
//! key = true
//! errors = true                    # texts of errors, which may quote a record
//! value = false                    # true hides the whole value
//! ```
//!
//! All rules whose topics fit count together; a topic's rules hold for its retry topics and dead letters too. Where fields are
//! hidden, a value that is not JSON is hidden whole: nobody knows where in it they stand. Some headers are always hidden.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use shared::config::Invalid;

const VARIABLE: &str = "CONSOLE_REDACTION_FILE";
/// What stands for what is hidden.
pub const HIDDEN: &str = "•••";
/// Hidden without a rule: they let their reader act as somebody else.
const SECRET_HEADERS: [&str; 5] = ["authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key"];

/// The rules of a console.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redaction {
    #[serde(default, rename = "rule")]
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    topics: Vec<String>,
    #[serde(default)]
    fields: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    key: bool,
    #[serde(default)]
    errors: bool,
    #[serde(default)]
    value: bool,
}

impl Redaction {
    /// Reads the file; names what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, Invalid> {
        let invalid = |why: String| Invalid::new(VARIABLE, format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| invalid(error.to_string()))?;
        Self::parse(&text).map_err(invalid)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let rules: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let fields = || rules.rules.iter().flat_map(|rule| &rule.fields);
        match fields().find(|field| !field.starts_with('/')) {
            Some(field) => Err(format!("`{field}` is no pointer: it must begin with `/`")),
            None => Ok(rules),
        }
    }

    /// A key as it may be shown.
    pub fn key(&self, topic: &str, key: String) -> String {
        if self.of(topic).any(|rule| rule.key) { HIDDEN.to_owned() } else { key }
    }

    /// The text of an error as it may be shown.
    pub fn error(&self, topic: &str, error: String) -> String {
        if self.of(topic).any(|rule| rule.errors) { HIDDEN.to_owned() } else { error }
    }

    /// A header's value as it may be shown. What a consumer says of an error in a header is the text of an error.
    pub fn header(&self, topic: &str, name: &str, value: String) -> String {
        let is = |hidden: &str| hidden.eq_ignore_ascii_case(name);
        let is_hidden = SECRET_HEADERS.iter().any(|hidden| is(hidden))
            || self.of(topic).any(|rule| rule.headers.iter().any(|hidden| is(hidden)));
        match is_hidden {
            true => HIDDEN.to_owned(),
            false if is("kafka_dlt-exception-message") => self.error(topic, value),
            false => value,
        }
    }

    /// A value as it may be shown: its JSON without the hidden fields, its text, or nothing of it.
    pub fn value(&self, topic: &str, value: &[u8]) -> Shown {
        let json = serde_json::from_slice::<Value>(value).ok();
        let hides_fields = self.of(topic).any(|rule| !rule.fields.is_empty());
        match json {
            _ if self.of(topic).any(|rule| rule.value) => Shown::Hidden,
            Some(mut json) => {
                let fields = self.of(topic).flat_map(|rule| &rule.fields);
                fields.for_each(|field| hide(&mut json, &segments(field)));
                Shown::Json(json)
            }
            None if hides_fields => Shown::Hidden,
            None => Shown::Bytes(value.to_vec()),
        }
    }

    fn of(&self, topic: &str) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.topics.iter().any(|pattern| fits(pattern, topic)))
    }
}

/// A value as it may be shown.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// Nothing of it.
    Hidden,
    /// JSON, hidden fields replaced.
    Json(Value),
    /// As it is.
    Bytes(Vec<u8>),
}

/// A rule of a topic holds for the topics that are made from its name: retry topics, dead letters.
fn fits(pattern: &str, topic: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => topic.starts_with(prefix),
        None => topic.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')),
    }
}

/// JSON pointer (RFC 6901), its escapes undone.
fn segments(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect()
}

fn hide(json: &mut Value, segments: &[String]) {
    let Some((first, rest)) = segments.split_first() else {
        *json = Value::String(HIDDEN.to_owned());
        return;
    };
    match json {
        Value::Object(members) if first == "*" => members.values_mut().for_each(|member| hide(member, rest)),
        Value::Object(members) => members.get_mut(first).into_iter().for_each(|member| hide(member, rest)),
        Value::Array(elements) if first == "*" => elements.iter_mut().for_each(|element| hide(element, rest)),
        Value::Array(elements) => {
            let element = first.parse::<usize>().ok().and_then(|index| elements.get_mut(index));
            element.into_iter().for_each(|element| hide(element, rest));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RULES: &str = r#"
        [[rule]]
        topics = ["payments.*"]
        fields = ["/card/number", "/payers/*/email", "/a~1b"]
        headers = ["X-Customer"]
        [[rule]]
        topics = ["renewals"]
        key = true
        errors = true
        [[rule]]
        topics = ["secret"]
        value = true
    "#;

    #[test]
    fn fields_are_hidden_where_they_stand() {
        let rules = Redaction::parse(RULES).unwrap();
        let value = json!({"card": {"number": 4, "kind": "v"}, "payers": [{"email": "a"}, {"email": "b"}], "a/b": 1});
        let hidden = json!({"card": {"number": HIDDEN, "kind": "v"}, "payers": [{"email": HIDDEN}, {"email": HIDDEN}],
            "a/b": HIDDEN});
        let text = value.to_string();
        assert_eq!(rules.value("payments.charged-g-dlq", text.as_bytes()), Shown::Json(hidden));
        assert_eq!(rules.value("other", text.as_bytes()), Shown::Json(value));
        assert_eq!(rules.value("payments.x", b"not json 4111"), Shown::Hidden, "nobody knows where the fields stand");
        assert_eq!(rules.value("other", b"text"), Shown::Bytes(b"text".to_vec()));
        assert_eq!(rules.value("secret-g-dlq", b"{}"), Shown::Hidden);
    }

    #[test]
    fn keys_errors_and_headers_are_hidden_by_topic() {
        let rules = Redaction::parse(RULES).unwrap();
        for topic in ["renewals", "renewals-g-dlq", "renewals-g-retry-0"] {
            assert_eq!(rules.key(topic, "ann".to_owned()), HIDDEN, "{topic}");
            assert_eq!(rules.error(topic, "ann is bad".to_owned()), HIDDEN);
            assert_eq!(rules.header(topic, "kafka_dlt-exception-message", "ann".to_owned()), HIDDEN);
        }
        assert_eq!(rules.key("renewals.requested", "ann".to_owned()), "ann", "another topic");
        assert_eq!(rules.header("payments.a", "x-customer", "ann".to_owned()), HIDDEN);
        assert_eq!(rules.header("other", "Authorization", "Bearer x".to_owned()), HIDDEN);
        assert_eq!(rules.header("other", "trace", "1".to_owned()), "1");
    }

    #[test]
    fn a_rule_that_would_not_hold_is_refused() {
        for text in ["[[rule]]\ntopics=[]\nfield=[]", "[[rule]]\ntopics=['t']\nfields=['card']", "[[rule]]\nkey=true"] {
            assert!(Redaction::parse(text).is_err(), "{text}");
        }
    }
}
