//! Reviews: who somebody is, and what they may do. They are posted, answered and forgotten.

use k8s_openapi::api::{authentication, authorization};

use super::{BASE, add_schema};
use crate::resource::{Resource, decode::decode};
use crate::validation;

const REVIEW: Resource = Resource { namespaced: false, stored: false, verbs: &["create"], ..BASE };
const AUTHORIZATION: Resource = Resource { group: "authorization.k8s.io", ..REVIEW };

pub(super) const SELF_SUBJECT_REVIEW: Resource = Resource {
    group: "authentication.k8s.io",
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    schema: "io.k8s.api.authentication.v1.SelfSubjectReview",
    decode: decode::<authentication::v1::SelfSubjectReview>,
    add_schema: add_schema::<authentication::v1::SelfSubjectReview>,
    ..REVIEW
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
