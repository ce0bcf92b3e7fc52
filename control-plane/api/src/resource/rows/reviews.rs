//! Reviews: who somebody is, and what they may do. They are posted, answered and forgotten, as are
//! requests for tokens.

use k8s_openapi::api::{authentication, authorization};

use super::{BASE, add_schema};
use crate::resource::{Resource, decode::decode};
use crate::{defaults, validation};

const REVIEW: Resource = Resource { namespaced: false, stored: false, verbs: &["create"], ..BASE };
const AUTHENTICATION: Resource = Resource { group: "authentication.k8s.io", ..REVIEW };
const AUTHORIZATION: Resource = Resource { group: "authorization.k8s.io", ..REVIEW };

/// What is posted to an account's `token`. It has no path of its own.
pub static TOKEN_REQUEST: Resource = Resource {
    kind: "TokenRequest",
    namespaced: true,
    schema: "io.k8s.api.authentication.v1.TokenRequest",
    decode: decode::<authentication::v1::TokenRequest>,
    apply_defaults: defaults::token_request,
    validate: validation::token_request,
    add_schema: add_schema::<authentication::v1::TokenRequest>,
    ..AUTHENTICATION
};

pub(super) const SELF_SUBJECT_REVIEW: Resource = Resource {
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    schema: "io.k8s.api.authentication.v1.SelfSubjectReview",
    decode: decode::<authentication::v1::SelfSubjectReview>,
    add_schema: add_schema::<authentication::v1::SelfSubjectReview>,
    ..AUTHENTICATION
};

pub(super) const TOKEN_REVIEW: Resource = Resource {
    kind: "TokenReview",
    plural: "tokenreviews",
    singular: "tokenreview",
    schema: "io.k8s.api.authentication.v1.TokenReview",
    decode: decode::<authentication::v1::TokenReview>,
    add_schema: add_schema::<authentication::v1::TokenReview>,
    ..AUTHENTICATION
};

pub(super) const LOCAL_SUBJECT_ACCESS_REVIEW: Resource = Resource {
    kind: "LocalSubjectAccessReview",
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    namespaced: true,
    schema: "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    decode: decode::<authorization::v1::LocalSubjectAccessReview>,
    validate: validation::local_subject_access_review,
    add_schema: add_schema::<authorization::v1::LocalSubjectAccessReview>,
    ..AUTHORIZATION
};

pub(super) const SELF_SUBJECT_ACCESS_REVIEW: Resource = Resource {
    kind: "SelfSubjectAccessReview",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    schema: "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    decode: decode::<authorization::v1::SelfSubjectAccessReview>,
    validate: validation::self_subject_access_review,
    add_schema: add_schema::<authorization::v1::SelfSubjectAccessReview>,
    ..AUTHORIZATION
};

pub(super) const SELF_SUBJECT_RULES_REVIEW: Resource = Resource {
    kind: "SelfSubjectRulesReview",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    schema: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    decode: decode::<authorization::v1::SelfSubjectRulesReview>,
    add_schema: add_schema::<authorization::v1::SelfSubjectRulesReview>,
    ..AUTHORIZATION
};

pub(super) const SUBJECT_ACCESS_REVIEW: Resource = Resource {
    kind: "SubjectAccessReview",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    schema: "io.k8s.api.authorization.v1.SubjectAccessReview",
    decode: decode::<authorization::v1::SubjectAccessReview>,
    validate: validation::subject_access_review,
    add_schema: add_schema::<authorization::v1::SubjectAccessReview>,
    ..AUTHORIZATION
};
