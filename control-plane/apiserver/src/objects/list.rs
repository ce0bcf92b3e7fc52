//! Reading many objects.

use super::unreadable::read_failed;
use super::{Objects, store_failed};
use crate::store::{Page, Range, Revision, StoreError};
use crate::watch::{Filter, Object};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bowline_api::resource::Resource;
use bowline_api::status::Status;
use serde_json::{Value, json};
use std::sync::Arc;

/// What a list asks for, beside its filter.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListOptions {
    /// At most this many objects.
    pub(crate) limit: Option<usize>,
    /// The token of the page before.
    pub(crate) next: String,
    /// `""`: the newest. `"0"`: any. Otherwise not older than this.
    pub(crate) resource_version: String,
    /// Exactly that revision.
    pub(crate) exact: bool,
}

/// Selected objects at one revision.
pub(crate) struct List {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) revision: Revision,
    /// The token of the next page.
    pub(crate) next: Option<String>,
    /// How many objects the next pages have, where that is known.
    pub(crate) remaining: Option<usize>,
}

/// For a page that cannot be shown as it was any more.
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent \
    list result. You can start a new list without the continue parameter, or use the continue \
    token in this response to retrieve the remainder of the results. Continuing with the provided \
    token results in an inconsistent list - objects that were created, modified, or deleted \
    between the time the first chunk was returned and now may show up in the list.";

/// In place of a revision in a token.
const NEWEST: i64 = -1;

/// Where a page starts: after a key, at a revision.
struct Position {
    /// `None` is the newest state, whatever the pages before have shown.
    revision: Option<Revision>,
    after: String,
}

impl Position {
    fn parse(token: &str) -> Result<Self, Status> {
        let parsed = URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .and_then(|value| {
                let revision = match value["rv"].as_i64()? {
                    NEWEST => None,
                    revision => Some(Revision::try_from(revision).ok().filter(|at| *at > 0)?),
                };
                let after = value["after"].as_str()?.to_owned();
                Some(Self { revision, after })
            });
        parsed
            .ok_or_else(|| Status::bad_request("invalid continue token: continue key is not valid"))
    }

    fn token(&self) -> String {
        let value = match self.revision {
            Some(revision) => json!({ "rv": revision, "after": self.after }),
            None => json!({ "rv": NEWEST, "after": self.after }),
        };
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    /// The state at this position is forgotten. A list that has begun may go on with what there is.
    fn compacted(&self) -> Status {
        if self.after.is_empty() {
            return Status::expired("The resourceVersion for the provided list is too old.");
        }
        let newest = Self { revision: None, after: self.after.clone() };
        Status { next: Some(newest.token()), ..Status::expired(INCONSISTENT) }
    }
}

pub(crate) fn parse_revision(text: &str) -> Result<Revision, Status> {
    text.parse().map_err(|_| {
        Status::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {text:?}: \
             strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

impl Objects {
    pub(crate) async fn list(
        &self,
        resource: &'static Resource,
        filter: &Filter,
        options: &ListOptions,
    ) -> Result<List, Status> {
        if !options.next.is_empty() {
            let position = Position::parse(&options.next)?;
            match position.revision {
                Some(revision) => self.wait_for(revision).await?,
                None => self.catch_up().await?,
            }
            return self.list_at(resource, filter, options, Some(position)).await;
        }
        match options.resource_version.as_str() {
            "" => self.catch_up().await?,
            "0" => {}
            version if options.exact => {
                let revision = parse_revision(version)?;
                self.wait_for(revision).await?;
                let position = Position { revision: Some(revision), after: String::new() };
                return self.list_at(resource, filter, options, Some(position)).await;
            }
            version => self.wait_for(parse_revision(version)?).await?,
        }
        self.list_at(resource, filter, options, None).await
    }

    /// From the cache where that has the asked revision, else from the store's history.
    async fn list_at(
        &self,
        resource: &'static Resource,
        filter: &Filter,
        options: &ListOptions,
        position: Option<Position>,
    ) -> Result<List, Status> {
        let applied = self.caches.applied();
        let after = position.as_ref().map(|p| p.after.as_str()).filter(|after| !after.is_empty());
        let cache = self.caches.of(resource);
        let snapshot = cache.list(filter, after, options.limit);
        let asked = position.as_ref().and_then(|position| position.revision);
        if let (Some(position), Some(revision)) = (&position, asked)
            && snapshot.revision > revision
        {
            return self.list_past(resource, filter, options, (position, revision)).await;
        }
        let unreadable = cache.unreadables(filter);
        if !unreadable.is_empty() {
            return Err(read_failed(resource, "", &unreadable));
        }
        let revision = asked.unwrap_or_else(|| applied.max(snapshot.revision));
        Ok(list(filter, snapshot.objects, snapshot.remaining, revision))
    }

    async fn list_past(
        &self,
        resource: &'static Resource,
        filter: &Filter,
        options: &ListOptions,
        (position, revision): (&Position, Revision),
    ) -> Result<List, Status> {
        let (group, _) = resource.stored_as();
        let root = crate::store::key(group, resource.plural, "", "");
        let range = Range {
            prefix: crate::store::key(group, resource.plural, &filter.namespace, ""),
            after: (!position.after.is_empty()).then(|| format!("{root}{}", position.after)),
            at: Some(revision),
            limit: None,
        };
        let Page { entries, .. } = self.store.range(range).await.map_err(|error| match error {
            StoreError::Compacted { .. } => position.compacted(),
            error => store_failed(error),
        })?;
        let mut selected = Vec::new();
        let mut remaining = 0;
        for entry in entries {
            let key = entry.key.trim_start_matches(&root).to_owned();
            let object = Object::read(key, &entry.value, entry.modified)
                .map_err(|found| read_failed(resource, "", &[found]))?;
            if !filter.selects(&object) {
                continue;
            }
            if options.limit.is_some_and(|limit| selected.len() >= limit) {
                remaining += 1;
            } else {
                selected.push(Arc::new(object));
            }
        }
        Ok(list(filter, selected, remaining, revision))
    }
}

fn list(filter: &Filter, objects: Vec<Arc<Object>>, remaining: usize, revision: Revision) -> List {
    let last = objects.last().filter(|_| remaining > 0);
    let next =
        last.map(|last| Position { revision: Some(revision), after: last.key.clone() }.token());
    // With a selector clients do not expect a number, which other servers cannot give.
    let known = next.is_some() && filter.labels.is_empty() && filter.fields.is_empty();
    List { objects, revision, next, remaining: known.then_some(remaining) }
}
