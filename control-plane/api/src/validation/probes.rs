//! Probes of containers, and what runs when a container starts and ends.

use serde_json::Value;

use super::containers::{list, port_or_name, text};
use super::names::header_name;
use super::{Errors, Path};

const PROBES: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const HOOKS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];
const SCHEMES: &[&str] = &["HTTP", "HTTPS"];
const NUMBERS: [&str; 5] = [
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
];
const WINDOWS_SIGNALS: &[&str] = &["SIGKILL", "SIGTERM"];
const LINUX_SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// Checks the hooks and the probes of a container of the pod `spec`.
pub(super) fn probes(errors: &mut Errors, container: &Value, spec: &Value, path: &Path) {
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    let (lifecycle, path_of_lifecycle) = (&container["lifecycle"], path.child("lifecycle"));
    for field in ["postStart", "preStop"].iter().filter(|field| !lifecycle[**field].is_null()) {
        handler(errors, &lifecycle[*field], HOOKS, grace, &path_of_lifecycle.child(field));
    }
    if !lifecycle["stopSignal"].is_null() {
        let path = path_of_lifecycle.child("stopSignal");
        stop_signal(errors, &lifecycle["stopSignal"], &spec["os"], &path);
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[field].is_null() {
            probe(errors, &container[field], field == "readinessProbe", &path.child(field));
        }
    }
}

fn stop_signal(errors: &mut Errors, signal: &Value, os: &Value, path: &Path) {
    match text(os, "name") {
        _ if os.is_null() => {
            errors.forbidden(path, "may not be set for containers with empty `spec.os.name`");
        }
        "windows" => errors.one_of(path, signal, WINDOWS_SIGNALS),
        "linux" => errors.one_of(path, signal, LINUX_SIGNALS),
        _ => {}
    }
}

fn probe(errors: &mut Errors, probe: &Value, readiness: bool, path: &Path) {
    handler(errors, probe, PROBES, None, path);
    for field in NUMBERS {
        errors.non_negative(&path.child(field), &probe[field]);
    }
    let field = "terminationGracePeriodSeconds";
    let (grace, path_of_grace) = (&probe[field], path.child(field));
    if grace.as_i64().is_some_and(|seconds| seconds <= 0) {
        errors.invalid(&path_of_grace, grace, "must be greater than 0");
    }
    if readiness {
        if !grace.is_null() {
            errors.invalid(&path_of_grace, grace, "must not be set for readinessProbes");
        }
        return;
    }
    let threshold = &probe["successThreshold"];
    if threshold.as_i64().is_some_and(|number| number != 1) {
        errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

/// Checks that there is one way to ask, of those in `kinds`, and that it is complete.
fn handler(errors: &mut Errors, handler: &Value, kinds: &[&str], grace: Option<i64>, path: &Path) {
    let mut found = false;
    for kind in kinds.iter().filter(|kind| !handler[**kind].is_null()) {
        let path = path.child(kind);
        if found {
            errors.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        action(errors, kind, &handler[*kind], grace, &path);
    }
    if !found {
        errors.required(path, "must specify a handler type");
    }
}

fn action(errors: &mut Errors, kind: &str, action: &Value, grace: Option<i64>, path: &Path) {
    match kind {
        "exec" => {
            if list(action, "command").is_empty() {
                errors.required(&path.child("command"), "");
            }
        }
        "httpGet" => {
            if text(action, "path").is_empty() {
                errors.required(&path.child("path"), "");
            }
            port_or_name(errors, &action["port"], &path.child("port"));
            errors.one_of(&path.child("scheme"), &action["scheme"], SCHEMES);
            for header in list(action, "httpHeaders") {
                let name = text(header, "name");
                errors.complain(&path.child("httpHeaders"), name, header_name(name));
            }
        }
        "sleep" => {
            let seconds = action["seconds"].as_i64().unwrap_or(0);
            if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
                let why = format!(
                    "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                );
                errors.invalid(path, &Value::from(seconds), &why);
            }
        }
        _ => port_or_name(errors, &action["port"], &path.child("port")),
    }
}
