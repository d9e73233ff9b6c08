//! What a route asks of whoever calls it: `_: Operate` or `by: Admin` among its arguments.

use poem::{Request, http::StatusCode};
use poem_openapi::{SecurityScheme, auth::Bearer};

use crate::{
    http::problem::Problem,
    tokens::{Holder, Role, TokenName},
};

/// A token whose role is operate or admin: `Authorization: Bearer TOKEN`.
#[derive(SecurityScheme)]
#[oai(rename = "Operate", ty = "bearer", checker = "check_operate")]
pub struct Operate(Holder);

/// A token whose role is admin: `Authorization: Bearer TOKEN`.
#[derive(SecurityScheme)]
#[oai(rename = "Admin", ty = "bearer", checker = "check_admin")]
pub struct Admin(Holder);

impl Operate {
    /// The name of the token: who asks.
    pub fn name(&self) -> &TokenName {
        &self.0.name
    }
}

impl Admin {
    /// The name of the token: who asks.
    pub fn name(&self) -> &TokenName {
        &self.0.name
    }
}

/// Refuses a holder whose token does not allow what needs this role.
pub fn check(holder: Option<&Holder>, wanted: Role) -> Result<(), Problem> {
    let Some(holder) = holder else {
        return Err(Problem::unauthorized("this needs the API token"));
    };
    if holder.role >= wanted {
        return Ok(());
    }
    let detail = format!(
        "token {} has the role {}, and this needs {wanted}; use a token with that role",
        holder.name, holder.role
    );
    Err(Problem::new(StatusCode::FORBIDDEN, detail))
}

async fn check_operate(request: &Request, _: Bearer) -> poem::Result<Holder> {
    allowed(request, Role::Operate)
}

async fn check_admin(request: &Request, _: Bearer) -> poem::Result<Holder> {
    allowed(request, Role::Admin)
}

/// The door has found out who it is.
fn allowed(request: &Request, wanted: Role) -> poem::Result<Holder> {
    let holder = request.data::<Holder>();
    check(holder, wanted)?;
    holder.cloned().ok_or_else(|| Problem::unauthorized("this needs the API token").into())
}
