//! Who asks, and whether they may: every handler names the right it needs in its signature.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use hookline_model::access::{self, Action, Role};
use hookline_model::ids::Slug;
use hookline_registry::{KeyEntry, ProjectEntry, Snapshot};

use super::{Api, Problem};
use crate::cli::Role as Served;
use crate::http::Pages;

/// A right that a handler needs.
pub(crate) trait Right: Send + Sync + 'static {
    /// What it does.
    const ACTION: Action;
    /// The role of a process that does it.
    const SERVED_BY: Served;
}

/// Declares rights as types.
macro_rules! rights {
    ($($(#[$doc:meta])* $name:ident by $role:ident,)+) => {$(
        $(#[$doc])*
        pub(crate) struct $name;
        impl Right for $name {
            const ACTION: Action = Action::$name;
            const SERVED_BY: Served = Served::$role;
        }
    )+};
}

rights! {
    /// To look at something.
    Read by Api,
    /// To publish.
    Publish by Ingest,
    /// To change webhooks, event types and what belongs to them.
    Manage by Api,
    /// To change projects and keys.
    Administer by Api,
}

/// Somebody whose key is accepted and allows what the handler does.
pub(crate) struct Caller<R> {
    /// The API.
    pub(crate) api: Arc<Api>,
    /// The registry, no older than a second.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The key.
    key: Arc<KeyEntry>,
    right: PhantomData<R>,
}

impl<R> Caller<R> {
    /// The only project that the caller sees; `None`: all.
    pub(crate) fn bound_to(&self) -> Option<&Slug> {
        self.key.key.project.as_ref()
    }

    /// What the caller may do.
    pub(crate) fn role(&self) -> Role {
        self.key.key.role
    }

    /// The project of the path. Another's and one that is not there look the same.
    pub(crate) fn project(&self, id: &str) -> Result<&Arc<ProjectEntry>, Problem> {
        let sees = self.bound_to().is_none_or(|own| own.as_str() == id);
        let found = self.snapshot.project(id).filter(|_| sees);
        found.ok_or_else(|| no_project(id))
    }

    /// Everything up to the end of the log: what others were told is written is seen.
    pub(crate) async fn refreshed(&mut self) -> Result<Arc<Snapshot>, Problem> {
        self.snapshot = self.api.refreshed().await?;
        Ok(Arc::clone(&self.snapshot))
    }
}

/// There is no such project, or the caller may not know of it.
pub(crate) fn no_project(id: &str) -> Problem {
    Problem::none("project", id)
}

impl<R: Right> FromRequestParts<Arc<Pages>> for Caller<R> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, pages: &Arc<Pages>) -> Result<Self, Problem> {
        let api = pages.api()?;
        let presented = bearer(&parts.headers)?;
        let mut snapshot = api.recent().await?;
        let mut key = accepted(&api, &snapshot, &presented);
        if key.is_err() {
            // Made a moment ago, perhaps by another process.
            snapshot = api.refreshed().await?;
            key = accepted(&api, &snapshot, &presented);
        }
        let mut caller = Self {
            key: key?,
            api,
            snapshot,
            right: PhantomData,
        };
        let path = RawPathParams::from_request_parts(parts, pages).await;
        let path = path.map_err(|error| Problem::malformed(error.to_string()))?;
        if let Some((_, id)) = path.iter().find(|(name, _)| *name == "project") {
            if caller.project(id).is_err() {
                // As with keys.
                caller.refreshed().await?;
            }
            caller.project(id)?;
        }
        if !caller.role().may(R::ACTION) {
            return Err(Problem::forbidden(format!(
                "this key has the role {}; this needs one of: {}",
                caller.role(),
                Role::that_may(R::ACTION)
            )));
        }
        caller.api.serves(R::SERVED_BY)?;
        Ok(caller)
    }
}

fn bearer(headers: &HeaderMap) -> Result<access::KeyText, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(Problem::unauthorized(
            "send a key: `Authorization: Bearer hk_…`; `hookline keys create` makes one",
        ));
    };
    let text = value.to_str().unwrap_or_default();
    let (scheme, key) = text.split_once(' ').unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Problem::unauthorized(
            "the header must be `Authorization: Bearer hk_…`",
        ));
    }
    access::read_key(key.trim()).map_err(|error| Problem::unauthorized(error.to_string()))
}

/// The key, if it is known and not past its end. Which of the two is not told to strangers; a bearer who has the whole text may know.
fn accepted(
    api: &Api,
    snapshot: &Snapshot,
    presented: &access::KeyText,
) -> Result<Arc<KeyEntry>, Problem> {
    let unknown = || Problem::unauthorized("this key is not known here, or was revoked");
    let entry = snapshot.key(&presented.id).ok_or_else(unknown)?;
    if !entry.key.hash.matches(&presented.hash) {
        return Err(unknown());
    }
    // A key outlives its project only while that is being deleted.
    let project = entry.key.project.as_ref();
    if project.is_some_and(|id| snapshot.project(id.as_str()).is_none()) {
        return Err(unknown());
    }
    if !entry.live(api.clock.now()) {
        return Err(Problem::unauthorized("this key has expired"));
    }
    Ok(Arc::clone(entry))
}
