//! The page of each problem, where its type's URI leads.

use http::HeaderValue;
use shared::problem::Kind;

use crate::answer::Answer;
use crate::error::Error;
use crate::request::Call;

/// `GET /problems/{name}`: what the problem means and what to do about it, as plain text.
pub(crate) fn page(call: &Call<'_>) -> Result<Answer, Error> {
    let kind = Kind::from_name(call.variables[0]).ok_or(Error::RouteNotFound)?;
    let text = format!("{} ({} {})\n\n{}\n", kind.title(), kind.status().as_u16(), kind.name(), kind.page());
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(Answer { body: text.into(), content_type, claim: None, etag: None, link: None })
}
