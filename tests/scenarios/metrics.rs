//! Metrics as Prometheus sees them: Debian's own scrapes the server and every agent of a cluster,
//! with the configuration that the documentation gives, and answers what the dashboard asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bowline_tests::api::{Found, wait};
use bowline_tests::command::{command, finish, output};
use bowline_tests::{Cluster, EchoStage, Running, Wishes, artifacts, load};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// As many as the documentation's configuration has.
const NODES: usize = 3;
const SERVER: &str = "https://172.30.0.1:6443";
/// Inside the namespace beside the nodes.
const PROMETHEUS: &str = "127.0.0.1:9090";
/// So many are made beside those that are there, with so many ports each: the maps have an entry
/// for every port.
const SERVICES: usize = 200;
const PORTS: usize = 50;
const MANY: usize = SERVICES * PORTS;
/// What one scrape of an agent with them may take; the build is not an optimized one.
const SCRAPE_LIMIT: f64 = 1.0;
/// What the dashboard's variables stand for here.
const VARIABLES: [(&str, &str); 2] = [("$__rate_interval", "30s"), ("$node", ".*")];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn a_real_prometheus_scrapes_server_and_agents() -> Result<()> {
    for program in ["prometheus", "promtool"] {
        output(command(program).arg("--version"))
            .with_context(|| format!("no {program}: install Debian's package prometheus"))?;
    }
    let stage = EchoStage::up(&Wishes { nodes: NODES, ..Wishes::default() }).await?;
    let played = play(&stage).await;
    played.map_err(|error| stage.cluster.with_logs(error))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn a_scrape_of_ten_thousand_services_is_cheap_and_bounded() -> Result<()> {
    let cluster = Cluster::up(&Wishes { nodes: 1, registry: false, ..Wishes::default() })?;
    let played = async {
        let site = Site::prepare(&cluster)?;
        site.many_services_stay_cheap().await?;
        site.services_are_left_out_beyond_the_limit().await.context("--metrics-services")
    };
    let played: Result<()> = played.await;
    played.map_err(|error| cluster.with_logs(error))
}

async fn play(stage: &EchoStage) -> Result<()> {
    let site = Site::prepare(&stage.cluster)?;
    site.only_masters_read().context("who may read")?;
    let agents = site.agents()?;
    for url in [SERVER.to_owned()].iter().chain(&agents) {
        site.promtool_agrees(url).with_context(|| format!("promtool about {url}"))?;
    }
    let running = site.prometheus()?;
    site.every_target_is_up().await?;
    site.traffic_is_seen(stage).await.context("traffic")?;
    site.the_dashboard_is_answered().await.context("docs/grafana/bowline.json")?;
    drop(running);
    Ok(())
}

/// The cluster, and where Prometheus lives beside it.
struct Site<'a> {
    cluster: &'a Cluster,
    dir: tempfile::TempDir,
}

impl<'a> Site<'a> {
    /// The documentation's configuration, with the administrator's certificate beside it.
    fn prepare(cluster: &'a Cluster) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let kubeconfig = fs::read_to_string(cluster.kubeconfig())?;
        let kubeconfig: Value = serde_yaml_ng::from_str(&kubeconfig)?;
        let server = &kubeconfig["clusters"][0]["cluster"];
        let user = &kubeconfig["users"][0]["user"];
        for (file, data) in [
            ("ca.crt", &server["certificate-authority-data"]),
            ("admin.crt", &user["client-certificate-data"]),
            ("admin.key", &user["client-key-data"]),
        ] {
            let data = STANDARD.decode(data.as_str().context("no data")?)?;
            fs::write(dir.path().join(file), data)?;
        }
        let config = fs::read_to_string(artifacts::workspace().join("docs/prometheus.yml"))?;
        let quick = config.replace("scrape_interval: 15s", "scrape_interval: 1s");
        ensure!(quick != config, "the configuration has another interval");
        fs::write(dir.path().join("prometheus.yml"), quick)?;
        Ok(Self { cluster, dir })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `https://` and the address of each agent.
    fn agents(&self) -> Result<Vec<String>> {
        let nodes = output(&mut self.cluster.bowline(&["get", "nodes", "-o", "json"])?)?;
        let nodes: Value = serde_json::from_str(&nodes)?;
        let items = nodes["items"].as_array().context("no nodes")?;
        let urls = items.iter().map(|node| {
            let addresses = node["status"]["addresses"].as_array().context("no addresses")?;
            let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
            let address = internal.and_then(|address| address["address"].as_str());
            Ok(format!("https://{}:10250", address.context("no address")?))
        });
        urls.collect()
    }

    /// curl beside the nodes.
    fn curl(&self) -> Result<Command> {
        let mut curl = self.cluster.bridge_place()?.command("curl");
        curl.args(["--silent", "--show-error", "--max-time", "20"]);
        curl.arg("--cacert").arg(self.file("ca.crt"));
        Ok(curl)
    }

    /// The same as the administrator.
    fn admin_curl(&self) -> Result<Command> {
        let mut curl = self.curl()?;
        curl.arg("--fail-with-body");
        curl.arg("--cert").arg(self.file("admin.crt")).arg("--key").arg(self.file("admin.key"));
        Ok(curl)
    }

    fn only_masters_read(&self) -> Result<()> {
        let code = ["--output", "/dev/null", "--write-out", "%{http_code}"];
        let server = output(self.curl()?.args(code).arg(format!("{SERVER}/metrics")))?;
        ensure!(server == "401", "a stranger got {server} from the server");
        for agent in self.agents()? {
            let stranger = finish(self.curl()?.args(code).arg(format!("{agent}/metrics")))?;
            let code = String::from_utf8_lossy(&stranger.stdout).into_owned();
            let refused = !stranger.status.success() && code == "000";
            ensure!(refused, "a stranger got {code} from {agent}");
        }
        Ok(())
    }

    /// Debian's promtool finds nothing to complain about in the names and the format.
    fn promtool_agrees(&self, url: &str) -> Result<()> {
        let body = output(self.admin_curl()?.arg(format!("{url}/metrics")))?;
        ensure!(body.contains("bowline_build_info{"), "no build: {body}");
        let file = self.file("metrics.txt");
        fs::write(&file, &body)?;
        let mut promtool = command("promtool");
        promtool.args(["check", "metrics"]).stdin(fs::File::open(&file)?);
        let checked = finish(&mut promtool)?;
        let said = [checked.stdout, checked.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(checked.status.success() && said.trim().is_empty(), "{said}");
        Ok(())
    }

    /// Starts it; it ends with the value.
    fn prometheus(&self) -> Result<Running> {
        let log = fs::File::create(self.file("log"))?;
        let mut prometheus = self.cluster.bridge_place()?.command("prometheus");
        prometheus.arg(format!("--config.file={}", self.file("prometheus.yml").display()));
        prometheus.arg(format!("--storage.tsdb.path={}", self.file("data").display()));
        prometheus.arg(format!("--web.listen-address={PROMETHEUS}")).stderr(log);
        Running::start(prometheus)
    }

    /// What a query gives: labels and value of each series.
    fn query(&self, query: &str) -> Result<Vec<(Value, f64)>> {
        let mut curl = self.curl()?;
        curl.args(["--get", "--data-urlencode", &format!("query={query}")]);
        let said = output(curl.arg(format!("http://{PROMETHEUS}/api/v1/query")))?;
        let said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        ensure!(said["status"] == "success", "{query}: {said}");
        let series = said["data"]["result"].as_array().context("no result")?;
        let row = |row: &Value| {
            let value = row["value"][1].as_str().context("no value")?;
            Ok((row["metric"].clone(), value.parse()?))
        };
        series.iter().map(row).collect()
    }

    /// Waits until the one series that a query gives has such a value.
    async fn reaches(&self, query: &str, is: impl Fn(f64) -> bool) -> Result<f64> {
        let waited = wait(query, PATIENCE, async || match self.query(query)?.as_slice() {
            [(_, value)] if is(*value) => Ok(Found::Yes(*value)),
            other => Ok(Found::NotYet(format!("{other:?}"))),
        });
        waited.await.with_context(|| self.log())
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.file("log")).unwrap_or_default();
        let troubles = log.lines().filter(|line| !line.contains("level=info"));
        let last: Vec<&str> = troubles.collect();
        format!("Prometheus says: {}", last[last.len().saturating_sub(5)..].join("\n"))
    }

    async fn every_target_is_up(&self) -> Result<()> {
        self.reaches("count(up == 1)", |up| up == 1.0 + NODES as f64).await?;
        let agents = self.query("up{job=\"bowline-agent\"}")?;
        let mut nodes: Vec<&str> =
            agents.iter().filter_map(|(labels, _)| labels["node"].as_str()).collect();
        nodes.sort_unstable();
        ensure!(nodes == ["node1", "node2", "node3"], "{nodes:?}");
        // Nothing that Prometheus would rather not keep: duplicates, samples out of order.
        let log = fs::read_to_string(self.file("log"))?;
        let wrong = log.lines().find(|line| line.contains("Error on ingesting"));
        wrong.map_or(Ok(()), |line| bail!("{line}"))
    }

    /// Connections, names and writes are in the counters that they belong to.
    async fn traffic_is_seen(&self, stage: &EchoStage) -> Result<()> {
        let echo = "sum(bowline_service_connections_total{namespace=\"default\",service=\"echo\"})";
        let before = self.reaches(echo, |_| true).await?;
        let place = stage.place()?;
        load::requests(&place, EchoStage::service(), 40)?.expect_no_failure("under Prometheus")?;
        self.reaches(echo, |now| now >= before + 40.0).await?;
        let opened = "sum(bowline_service_connect_duration_seconds_count)";
        self.reaches(opened, |now| now >= 40.0).await?;
        let mean = format!("sum(bowline_service_connect_duration_seconds_sum) / {opened}");
        self.reaches(&mean, |seconds| seconds > 1e-6 && seconds < 1.0).await?;
        let mut dig = stage.node()?.place()?.command("dig");
        output(dig.args(["@169.254.20.10", "+short", "echo.default.svc.cluster.local"]))?;
        self.reaches("sum(bowline_dns_answers_total{code=\"NOERROR\"})", |n| n >= 1.0).await?;
        let passed = "sum(bowline_datapath_packets_total{reason=~\"local-pod|remote-node\"})";
        self.reaches(passed, |n| n >= 40.0).await?;
        self.reaches("min(bowline_map_pressure_ratio{map=\"SERVICES\"})", |n| n > 0.0 && n < 1.0)
            .await?;
        self.reaches("sum(bowline_service_programming_duration_seconds_count)", |n| n >= 2.0)
            .await?;
        let written = "sum(apiserver_request_total{verb=\"POST\",resource=\"pods\",code=\"201\"})";
        self.reaches(written, |n| n >= 3.0).await?;
        let watches = "sum(apiserver_longrunning_requests{resource=\"endpointslices\"})";
        self.reaches(watches, |n| n >= NODES as f64).await?;
        let memory = "min(process_resident_memory_bytes{job=~\"bowline-.*\"})";
        self.reaches(memory, |n| n > 1e6).await?;
        for trouble in ["bowline_datapath_scrape_error > 0", "bowline_datapath_repairs_total > 0"] {
            let found = self.query(trouble)?;
            ensure!(found.is_empty(), "{trouble}: {found:?}");
        }
        Ok(())
    }

    /// Every expression of the dashboard is one, and asks for series that there are.
    async fn the_dashboard_is_answered(&self) -> Result<()> {
        let path = artifacts::workspace().join("docs/grafana/bowline.json");
        let expressions = expressions(&path)?;
        ensure!(expressions.len() > 30, "only {} expressions", expressions.len());
        for expression in &expressions {
            // What happens seldom is compared with nothing, so that the series itself shows.
            let asked = expression.trim_end_matches(" > 0");
            wait(asked, PATIENCE, async || match self.query(asked)?.len() {
                0 => Ok(Found::NotYet("nothing".to_owned())),
                _ => Ok(Found::Yes(())),
            })
            .await?;
        }
        eprintln!("{} expressions of the dashboard are answered", expressions.len());
        Ok(())
    }

    /// The series of the one agent, and the seconds that reading them took.
    fn scrape(&self) -> Result<(Vec<String>, f64)> {
        let [agent] = &self.agents()?[..] else { bail!("not one agent") };
        let mut curl = self.admin_curl()?;
        curl.args(["--write-out", "# took %{time_total}\n"]).arg(format!("{agent}/metrics"));
        let body = output(&mut curl)?;
        let took = body.lines().find_map(|line| line.strip_prefix("# took "));
        let took = took.context("no time")?.parse()?;
        let series = body.lines().filter(|line| !line.starts_with('#'));
        Ok((series.map(str::to_owned).collect(), took))
    }

    /// Waits until so many services are programmed and `shown` of them have their own series.
    async fn tells_of(&self, all: usize, shown: usize) -> Result<(Vec<String>, f64)> {
        let what = format!("{shown} of {all} services");
        wait(&what, PATIENCE, async || {
            let (series, took) = self.scrape()?;
            let value = |name: &str| {
                let line =
                    series.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_default() as usize
            };
            let is = |line: &&String| line.starts_with("bowline_service_connections_total{");
            let (services, left_out) =
                (value("bowline_services"), value("bowline_services_left_out"));
            let told = series.iter().filter(is).count();
            Ok(match services >= all && services - left_out == shown && told == shown {
                true => Found::Yes((series, took)),
                false => Found::NotYet(format!("{told} of {services}, {left_out} left out")),
            })
        })
        .await
    }

    /// With many services an agent tells of the first ones only, and quickly.
    async fn many_services_stay_cheap(&self) -> Result<()> {
        let api = self.cluster.api().await?;
        let services = api.of::<Service>();
        let made = stream::iter(0..SERVICES).map(|number| {
            let services = services.clone();
            async move {
                services.create(&PostParams::default(), &service(number)?).await?;
                anyhow::Ok(())
            }
        });
        made.buffer_unordered(32).try_collect::<Vec<()>>().await?;
        self.tells_of(MANY, 1000).await?;
        let mut took = Vec::new();
        for _ in 0..5 {
            took.push(self.scrape()?.1);
        }
        took.sort_by(f64::total_cmp);
        let (series, _) = self.scrape()?;
        eprintln!("{} series, {MANY} services: median {} s of {took:?}", series.len(), took[2]);
        ensure!(took[2] < SCRAPE_LIMIT, "a scrape takes {took:?}");
        Ok(())
    }

    /// The flag says how many, and the metric how many are missing.
    async fn services_are_left_out_beyond_the_limit(&self) -> Result<()> {
        let node = self.cluster.node("node1")?;
        node.kill_agent()?;
        node.start_agent_of(&artifacts::bowline()?, &["--metrics-services", "2"])?;
        let (series, _) = self.tells_of(MANY, 2).await?;
        // The first by name.
        let first =
            "bowline_service_connections_total{namespace=\"default\",service=\"kubernetes\"";
        ensure!(series.iter().any(|line| line.starts_with(first)), "{series:?}");
        Ok(())
    }
}

fn service(number: usize) -> Result<Service> {
    let port = |port| json!({ "name": format!("p{port}"), "port": 1000 + port });
    let ports: Vec<Value> = (0..PORTS).map(port).collect();
    Ok(serde_json::from_value(json!({
        "metadata": { "name": format!("many-{number:03}") },
        "spec": { "ports": ports, "selector": { "app": "echo" } },
    }))?)
}

/// What the panels of a dashboard ask for.
fn expressions(path: &Path) -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let expressions = targets.filter_map(|target| target["expr"].as_str()).map(|expression| {
        let set = |text: String, (name, value): &(&str, &str)| text.replace(name, value);
        VARIABLES.iter().fold(expression.to_owned(), set)
    });
    Ok(expressions.collect())
}
