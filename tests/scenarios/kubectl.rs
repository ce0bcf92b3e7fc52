//! Unmodified kubectl, the oldest and the newest release that is supported, with the verbs that
//! people use first, while pods run. The rest is in `kubectl_script`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::Api;
use bowline_tests::command::shown;
use bowline_tests::kubectl::Kubectl;
use bowline_tests::{Cluster, Wishes, artifacts};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn the_everyday_verbs_of_both_releases() -> Result<()> {
    let wishes = Wishes { nodes: 2, ..Wishes::default() };
    let cluster = Cluster::up(&wishes)?;
    for version in ["1.32", "1.36"] {
        let kubectl = Kubectl::new(version, &cluster)?;
        says(&kubectl, "version --client", &[&format!("Client Version: v{version}.")])?;
        play(&cluster, &kubectl)
            .await
            .with_context(|| format!("kubectl {version}"))
            .map_err(|error| cluster.with_logs(error))?;
    }
    Ok(())
}

async fn play(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let api = cluster.api().await?;
    let manifest = artifacts::example("web.yaml");
    let manifest = manifest.display();
    says(kubectl, "get nodes", &["node1", "node2", "Ready"])?;
    says(kubectl, "api-resources", &["deployments", "replicationcontrollers", "po"])?;
    says(
        kubectl,
        &format!("apply -f {manifest}"),
        &["deployment.apps/web created", "service/web created"],
    )?;
    says(kubectl, &format!("apply -f {manifest}"), &["deployment.apps/web unchanged"])?;
    api.ready_pods("app=web", 3, PATIENCE).await?;
    says(kubectl, "get pods", &["NAME", "READY", "STATUS", "1/1", "Running"])?;
    says(kubectl, "get pods -o wide", &["10.240.", "node1"])?;
    says(kubectl, "get deployment web", &["3/3"])?;
    says(kubectl, "get services", &["CLUSTER-IP", "10.9.8.8", "80/TCP"])?;
    says(kubectl, "get service web -o yaml", &["clusterIP: 10.9.8.8", "apiVersion: v1"])?;
    says(kubectl, "describe deployment web", &["StrategyType", "RollingUpdate", "3 available"])?;
    says(kubectl, "describe service web", &["10.9.8.8", "Endpoints"])?;
    says(kubectl, "describe node node1", &["Capacity", "cpu", "Taints"])?;
    json_and_describe(kubectl)?;
    watches_see_changes(kubectl)?;
    logs_are_followed(cluster, kubectl).await?;
    says(kubectl, "label pods -l app=web tier=front", &["labeled"])?;
    says(kubectl, "get pods -l tier=front --no-headers", &["web-"])?;
    warned_of_sctp(cluster, kubectl)?;
    every_kind(cluster, &api, kubectl).await?;
    a_changed_manifest(cluster, kubectl)?;
    says(kubectl, &format!("delete -f {manifest}"), &["deleted"])?;
    api.no_pods("app=web", PATIENCE).await
}

fn says(kubectl: &Kubectl, line: &str, expected: &[&str]) -> Result<()> {
    let said = kubectl.run(line)?;
    for word in expected {
        ensure!(said.contains(word), "`kubectl {line}` does not say `{word}`:\n{said}");
    }
    Ok(())
}

fn json_and_describe(kubectl: &Kubectl) -> Result<()> {
    let list: Value = serde_json::from_str(&kubectl.run("get pods -l app=web -o json")?)?;
    let items = list["items"].as_array().context("no items")?;
    ensure!(items.len() == 3, "{} pods", items.len());
    let name = items[0]["metadata"]["name"].as_str().context("a pod without a name")?;
    says(kubectl, &format!("describe pod {name}"), &["Status", "Running", "Image", "Events"])?;
    says(kubectl, &format!("get pod {name} -o jsonpath={{.status.podIP}}"), &["10.240."])
}

/// A `get -w` or `logs -f` that runs, line by line.
struct Following {
    line: String,
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    fn start(mut command: Command) -> Result<Self> {
        let line = shown(&command);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { line, child, lines })
    }

    /// Waits for a line that has all the words.
    fn sees(&self, words: &[&str]) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let Ok(line) = self.lines.recv_timeout(left) else { break };
            if words.iter().all(|word| line.split_whitespace().any(|one| one.contains(word))) {
                return Ok(line);
            }
            seen.push(line);
        }
        bail!("`{}` does not show {words:?}; it showed:\n{}", self.line, seen.join("\n"))
    }

    /// Waits until it ends by itself.
    fn ends(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "`{}` ended with {status}", self.line);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("`{}` does not end", self.line)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `get -w` prints what is there, and then each change.
fn watches_see_changes(kubectl: &Kubectl) -> Result<()> {
    let watch =
        |what: &str| Following::start(kubectl.command(&format!("get {what} -w --no-headers")));
    let sets = watch("replicasets -l app=web")?;
    let pods = watch("pods -l app=web")?;
    let deployments = watch("deployments")?;
    let services = watch("services")?;
    let nodes = watch("nodes")?;
    sets.sees(&["web-", "3"])?;
    pods.sees(&["web-", "1/1", "Running"])?;
    deployments.sees(&["web", "3/3"])?;
    services.sees(&["web", "10.9.8.8"])?;
    nodes.sees(&["node2", "Ready"])?;

    says(kubectl, "scale deployment web --replicas=2", &["scaled"])?;
    sets.sees(&["web-", "2"])?;
    pods.sees(&["web-", "Terminating"])?;
    deployments.sees(&["web", "2/2"])?;
    says(kubectl, "create service clusterip extra --tcp=80:9376", &["created"])?;
    services.sees(&["extra", "ClusterIP", "80/TCP"])?;
    says(kubectl, "delete service extra", &["deleted"])?;
    services.sees(&["extra", "ClusterIP"])?;
    says(kubectl, "cordon node2", &["cordoned"])?;
    nodes.sees(&["node2", "Ready,SchedulingDisabled"])?;
    says(kubectl, "uncordon node2", &["uncordoned"])
}

const TALKERS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: talker
      image: 172.30.0.1:5000/workload:v1
      command: [/bin/sh, -c, "n=0; while true; do n=$((n+1)); echo line-$n; sleep 0.2; done"]
---
apiVersion: v1
kind: Pod
metadata: {name: restarter}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: restarter
      image: 172.30.0.1:5000/workload:v1
      command: [/bin/sh, -c, "echo begun; sleep 4; echo done; exit 1"]
"#;

/// `logs -f` of both programs goes on while a pod prints, and ends with the run it follows.
async fn logs_are_followed(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let manifest = cluster.dir.join("logs/talkers.yaml");
    std::fs::write(&manifest, TALKERS)?;
    let manifest = manifest.display();
    says(kubectl, &format!("apply -f {manifest}"), &["talker created", "restarter created"])?;
    says(kubectl, "wait --for=condition=Ready pod/talker pod/restarter", &["condition met"])?;
    let of_both = |name: &str| -> Result<[Following; 2]> {
        let bowline = cluster.bowline(&["logs", "-f", name])?;
        let kubectl = kubectl.command(&format!("logs -f {name}"));
        Ok([Following::start(bowline)?, Following::start(kubectl)?])
    };
    let [ours, theirs] = of_both("talker")?;
    let [mut our_run, mut their_run] = of_both("restarter")?;
    for talker in [&ours, &theirs] {
        // The first ones from the file, the later ones as they are written.
        for number in [1, 2, 15, 30] {
            talker.sees(&[&format!("line-{number}")])?;
        }
    }
    for run in [&mut our_run, &mut their_run] {
        run.sees(&["begun"])?;
        run.sees(&["done"])?;
        run.ends()?;
    }
    // The next run has a log of its own, and the one before is kept.
    let [again, _] = of_both("restarter")?;
    again.sees(&["begun"])?;
    says(kubectl, "logs restarter --previous", &["begun", "done"])?;
    says(kubectl, &format!("delete -f {manifest}"), &["deleted"])?;
    ours.sees(&["line-31"])?;
    Ok(())
}

const SCTP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: streams}
spec:
  selector: {app: web}
  ports:
    - {name: web, port: 80}
    - {name: streams, port: 36412, protocol: SCTP}
"#;

/// A service that is not balanced is taken, and its owner is told: by each verb that writes it.
fn warned_of_sctp(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let manifest = cluster.dir.join("logs/sctp.yaml");
    let apply = format!("apply -f {}", manifest.display());
    let replace = format!("replace -f {}", manifest.display());
    let text = SCTP.replace("name: streams}\nspec", "name: streams, labels: {a: b}}\nspec");
    for (text, line, done) in [
        (SCTP, &apply, "service/streams created"),
        (&text, &apply, "service/streams configured"),
        (SCTP, &replace, "service/streams replaced"),
    ] {
        std::fs::write(&manifest, text)?;
        let ended = kubectl.try_run(line)?;
        let said = String::from_utf8_lossy(&ended.stdout);
        ensure!(ended.status.success() && said.contains(done), "`{line}`: {said}");
        let warned = String::from_utf8_lossy(&ended.stderr);
        let ours = "Warning: spec.ports[1].protocol: SCTP is not balanced";
        ensure!(warned.lines().any(|line| line.starts_with(ours)), "`{line}`: {warned}");
    }
    says(kubectl, "get service streams", &["80/TCP,36412/SCTP"])?;
    let delete = kubectl.try_run("delete service streams")?;
    let warned = String::from_utf8_lossy(&delete.stderr);
    ensure!(delete.status.success() && !warned.contains("SCTP"), "{warned}");
    Ok(())
}

const CREATED: &str = r#"
apiVersion: v1
kind: ReplicationController
metadata: {name: plain}
spec:
  replicas: 1
  selector: {app: plain}
  template:
    metadata: {labels: {app: plain}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - {name: plain, image: "172.30.0.1:5000/workload:v1"}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {password: not-for-the-screen}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: plain}
data: {colour: blue}
"#;

/// `create -f`, and what is shown of the kinds that have no pods of their own.
async fn every_kind(cluster: &Cluster, api: &Api, kubectl: &Kubectl) -> Result<()> {
    let manifest = cluster.dir.join("logs/created.yaml");
    std::fs::write(&manifest, CREATED)?;
    let manifest = manifest.display();
    let create = format!("create -f {manifest}");
    let created =
        ["replicationcontroller/plain created", "secret/hidden created", "configmap/plain created"];
    says(kubectl, &create, &created)?;
    let again = kubectl.try_run(&create)?;
    let error = String::from_utf8_lossy(&again.stderr);
    ensure!(!again.status.success() && error.contains("AlreadyExists"), "`{create}`: {error}");

    says(kubectl, "scale rc plain --replicas=2", &["replicationcontroller/plain scaled"])?;
    api.ready_pods("app=plain", 2, PATIENCE).await?;
    says(kubectl, "wait --for=jsonpath={.status.readyReplicas}=2 rc/plain", &["condition met"])?;
    let listed = [
        "replicationcontroller/plain",
        "replicaset.apps/web-",
        "endpoints/web",
        "endpointslice.discovery.k8s.io/web-",
        "SuccessfulCreate",
        "secret/hidden",
        "serviceaccount/default",
        "configmap/plain",
        "namespace/default",
    ];
    says(kubectl, "get rc,rs,ep,endpointslices,events,leases,secrets,sa,cm,ns", &listed)?;
    says(kubectl, "get leases -A", &["kube-node-lease", "node1", "node2"])?;

    says(kubectl, "describe rc plain", &["Replicas", "2 current / 2 desired", "SuccessfulCreate"])?;
    says(kubectl, "describe rs -l app=web", &["Controlled By", "Deployment/web", "Pods Status"])?;
    says(kubectl, "describe cm plain", &["colour", "blue"])?;
    says(kubectl, "describe service web", &["Port", "http  80/TCP", "Endpoints", "10.240."])?;
    let secret = kubectl.run("describe secret hidden")?;
    ensure!(secret.contains("18 bytes") && !secret.contains("screen"), "{secret}");
    let deleted = ["\"plain\" deleted", "\"hidden\" deleted"];
    says(kubectl, &format!("delete -f {manifest}"), &deleted)?;
    api.no_pods("app=plain", PATIENCE).await
}

/// Another image of the same deployment, and a variable that it did not have.
fn a_changed_manifest(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let text = std::fs::read_to_string(artifacts::example("web.yaml"))?;
    let image = "image: 172.30.0.1:5000/workload:v2\n          env: [{name: MOOD, value: calm}]";
    let changed = text.replace("image: 172.30.0.1:5000/workload:v1", image);
    ensure!(changed != text, "web.yaml has another image");
    let manifest = cluster.dir.join("logs/changed.yaml");
    std::fs::write(&manifest, changed)?;
    let apply = format!("apply -f {}", manifest.display());
    says(kubectl, &apply, &["deployment.apps/web configured", "service/web unchanged"])?;
    says(kubectl, "rollout status deployment/web --timeout=60s", &["successfully rolled out"])?;
    let live =
        "{range .items[*]}{.spec.containers[0].image}/{.spec.containers[0].env[0].value} {end}";
    let mut get = kubectl.command("get pods -l app=web --field-selector=status.phase=Running");
    let live = bowline_tests::command::output(get.arg(format!("-ojsonpath={live}")))?;
    ensure!(live.contains("workload:v2/calm"), "the pods are {live}");
    says(kubectl, &apply, &["deployment.apps/web unchanged"])
}
