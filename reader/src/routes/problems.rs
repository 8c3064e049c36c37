//! The page of each problem, where its type's URI leads.

use http::HeaderValue;
use shared::problem::Kind;

use crate::answer::Answer;
use crate::error::Error;
use crate::request::Call;

/// `GET /problems/{name}`: what the problem means and what to do about it, as plain text.
#[utoipa::path(
    get, path = "/problems/{name}", tag = "documents", operation_id = "get_problem",
    summary = "What a problem means",
    params(("name" = String, Path, description = "The last segment of the problem's `type`.", example = "site-not-found")),
    responses((status = 200, description = "What it means, and what to do about it.", body = String, content_type = "text/plain"))
)]
pub(crate) fn page(call: &Call<'_>) -> Result<Answer, Error> {
    let kind = Kind::from_name(call.variables[0]).ok_or(Error::RouteNotFound)?;
    let text = format!("{} ({} {})\n\n{}\n", kind.title(), kind.status().as_u16(), kind.name(), kind.page());
    Ok(Answer::page(text, HeaderValue::from_static("text/plain; charset=utf-8")))
}
