//! Containers and their tasks.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_client::services::v1::container::Runtime as RuntimeInfo;
use containerd_client::services::v1::snapshots::{
    Info as SnapshotInfo, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest,
};
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteTaskRequest, GetContainerRequest, KillRequest, ListContainersRequest, ListTasksRequest,
    StartRequest, UpdateContainerRequest, WaitRequest,
};
use containerd_client::types::Mount;
use containerd_client::types::v1::{Process, Status as TaskStatus};
use jiff::Timestamp;
use prost_types::Any;
use tokio::process::Command;
use tonic::Code;

use super::super::labels::{ContainerKey, end_from_labels, end_to_labels, ours_filter};
use super::super::{
    Ended, Exit, FoundContainer, FoundState, Labels, NewContainer, Rootfs, RootfsMount,
    RuntimeCallFailed,
};
use super::{Containerd, SNAPSHOTTER, failed, gone_is_fine, timestamp};

const RUNTIME: &str = "io.containerd.runc.v2";
const RUNTIME_OPTIONS_TYPE: &str = "containerd.runc.v1.Options";
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const SIGKILL: u32 = 9;
/// Where runc keeps its state, a directory a namespace, unless containerd is told otherwise.
const RUNC_ROOT: &str = "/run/containerd/runc";
/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Whose turn it is to delete the task of a container.
#[derive(Debug, Default)]
pub(super) struct Deletions(Mutex<HashMap<String, Turn>>);

type Turn = Arc<tokio::sync::Mutex<()>>;

impl Deletions {
    fn turn(&self, id: &str) -> Turn {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody has or waits for any more.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(id.to_owned()).or_default().clone()
    }
}

impl Containerd {
    pub(super) async fn prepare_snapshot(
        &self,
        key: &ContainerKey,
        image_id: &str,
        rootfs: &str,
    ) -> Result<Rootfs, RuntimeCallFailed> {
        let id = key.id();
        // Until the container exists nothing else holds the snapshot, or says whose it is.
        let root = ("containerd.io/gc.root".to_owned(), Timestamp::now().to_string());
        let labels = key.to_labels(image_id).into_iter().chain([root]);
        let prepared = self
            .snapshots()
            .prepare(self.request(PrepareSnapshotRequest {
                snapshotter: SNAPSHOTTER.to_owned(),
                key: id.clone(),
                parent: rootfs.to_owned(),
                labels: labels.collect(),
            }))
            .await;
        let mounts = match prepared {
            Ok(answer) => answer.into_inner().mounts,
            Err(status) if status.code() == Code::AlreadyExists => {
                let request = MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: id };
                let answer = self.snapshots().mounts(self.request(request)).await;
                answer.map_err(failed)?.into_inner().mounts
            }
            Err(status) => return Err(failed(status)),
        };
        let lower_dirs = mounts.first().map(lower_dirs).unwrap_or_default();
        let mounts = mounts
            .into_iter()
            .map(|mount| RootfsMount {
                kind: mount.r#type,
                source: mount.source,
                target: mount.target,
                options: mount.options,
            })
            .collect();
        Ok(Rootfs { lower_dirs, mounts })
    }

    pub(super) async fn start_container(
        &self,
        container: &NewContainer,
        rootfs: &Rootfs,
    ) -> Result<Timestamp, RuntimeCallFailed> {
        self.create_record(container).await?;
        let log = format!("file://{}", container.log.display());
        let create = CreateTaskRequest {
            container_id: container.id.clone(),
            rootfs: rootfs.mounts.iter().map(wire_mount).collect(),
            stdout: log.clone(),
            stderr: log,
            options: self.runtime_options(),
            ..Default::default()
        };
        let created = self.tasks().create(self.request(create.clone())).await;
        match created {
            Ok(_) => {}
            Err(status) if status.code() == Code::AlreadyExists => {
                self.kill_and_delete_task(&container.id).await?;
                self.tasks().create(self.request(create)).await.map_err(failed)?;
            }
            Err(status) => return Err(failed(status)),
        }
        let request = StartRequest { container_id: container.id.clone(), exec_id: String::new() };
        if let Err(status) = self.tasks().start(self.request(request)).await {
            let _ = self.delete_task(&container.id).await;
            return Err(failed(status));
        }
        Ok(Timestamp::now())
    }

    async fn create_record(&self, new: &NewContainer) -> Result<(), RuntimeCallFailed> {
        let spec = serde_json::to_vec(&new.spec)
            .map_err(|error| RuntimeCallFailed::Refused(error.to_string()))?;
        let record = Container {
            id: new.id.clone(),
            labels: new.key.to_labels(&new.image_id).into_iter().collect(),
            image: new.image.clone(),
            runtime: Some(RuntimeInfo {
                name: RUNTIME.to_owned(),
                options: self.runtime_options(),
            }),
            spec: Some(Any { type_url: SPEC_TYPE.to_owned(), value: spec }),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: new.id.clone(),
            ..Default::default()
        };
        let request = CreateContainerRequest { container: Some(record) };
        match self.container_service().create(self.request(request.clone())).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                // Left by a start that was interrupted: its task and specification are stale.
                self.kill_and_delete_task(&new.id).await?;
                let stale = DeleteContainerRequest { id: new.id.clone() };
                gone_is_fine(self.container_service().delete(self.request(stale)).await)?;
                let again = self.container_service().create(self.request(request)).await;
                again.map(|_| ()).map_err(failed)
            }
            Err(status) => Err(failed(status)),
        }
    }

    /// runc's state directory, as the one field of the shim's options message that is needed.
    fn runtime_options(&self) -> Option<Any> {
        const ROOT_FIELD: u8 = (7 << 3) | 2;
        let root = self.runc_root.as_ref()?.to_str()?.as_bytes();
        let mut value = vec![ROOT_FIELD];
        let mut length = root.len();
        while length >= 0x80 {
            value.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        value.push(length as u8);
        value.extend_from_slice(root);
        Some(Any { type_url: RUNTIME_OPTIONS_TYPE.to_owned(), value })
    }

    pub(super) async fn wait_for_exit(&self, id: &str) -> Result<Exit, RuntimeCallFailed> {
        let request = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        let answer = self.tasks().wait(self.lasting(request)).await.map_err(failed)?.into_inner();
        Ok(exit(answer.exit_status, answer.exited_at))
    }

    pub(super) async fn send_signal(
        &self,
        id: &str,
        signal: i32,
        all: bool,
    ) -> Result<(), RuntimeCallFailed> {
        let request = KillRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            signal: signal.unsigned_abs(),
            all,
        };
        gone_is_fine(self.tasks().kill(self.request(request)).await)
    }

    pub(super) async fn settle_container(
        &self,
        id: &str,
        end: &Ended,
    ) -> Result<(), RuntimeCallFailed> {
        self.note_end(id, end).await?;
        self.delete_task(id).await?;
        self.remove_snapshot(id).await
    }

    async fn note_end(&self, id: &str, end: &Ended) -> Result<(), RuntimeCallFailed> {
        let get = GetContainerRequest { id: id.to_owned() };
        let found = self.container_service().get(self.request(get)).await.map_err(failed)?;
        let Some(mut record) = found.into_inner().container else { return Ok(()) };
        record.labels.extend(end_to_labels(end));
        let update = UpdateContainerRequest {
            container: Some(record),
            update_mask: Some(prost_types::FieldMask { paths: vec!["labels".to_owned()] }),
        };
        self.container_service().update(self.request(update)).await.map(|_| ()).map_err(failed)
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<(), RuntimeCallFailed> {
        self.kill_and_delete_task(id).await?;
        self.remove_aborted_start(id).await;
        self.remove_snapshot(id).await?;
        let request = DeleteContainerRequest { id: id.to_owned() };
        gone_is_fine(self.container_service().delete(self.request(request)).await)
    }

    async fn kill_and_delete_task(&self, id: &str) -> Result<(), RuntimeCallFailed> {
        if self.delete_task(id).await.is_ok() {
            return Ok(());
        }
        self.send_signal(id, SIGKILL as i32, true).await?;
        match tokio::time::timeout(KILL_LIMIT, self.wait_for_exit(id)).await {
            Ok(Ok(_) | Err(RuntimeCallFailed::NotFound(_))) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                return Err(RuntimeCallFailed::Refused(format!(
                    "container {id}: a process was killed {} s ago and is still there; the \
                     kernel cannot end it while it waits for a device",
                    KILL_LIMIT.as_secs()
                )));
            }
        }
        self.delete_task(id).await
    }

    /// Removes what runc still has of a start that containerd gave up half way, because whoever
    /// asked for it was killed: containerd has no task then, and does not ask runc.
    async fn remove_aborted_start(&self, id: &str) {
        let root = self.runc_root.as_deref().unwrap_or(Path::new(RUNC_ROOT));
        let Ok(namespace) = self.namespace.to_str() else { return };
        let root = root.join(namespace);
        if !root.join(id).exists() {
            return;
        }
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(&root).args(["delete", "--force", id]);
        runc.stdin(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(KILL_LIMIT, runc.output()).await {
            Ok(Ok(ended)) if ended.status.success() => {}
            failed => tracing::warn!(container = id, ?failed, "runc does not forget a container"),
        }
    }

    /// One caller at a time, and to its end also when the caller stops waiting: otherwise the shim
    /// may stay for ever. containerd asks it once to end; it does not while another call still
    /// deletes its container, and a caller that is gone takes the question with it.
    async fn delete_task(&self, id: &str) -> Result<(), RuntimeCallFailed> {
        let (turn, mut tasks) = (self.deletions.turn(id), self.tasks());
        let request = self.request(DeleteTaskRequest { container_id: id.to_owned() });
        let deleted = tokio::spawn(async move {
            let _turn = turn.lock().await;
            tasks.delete(request).await
        });
        let answer = deleted.await.map_err(|_| {
            RuntimeCallFailed::Unreachable(format!("deleting the task of {id}: no answer"))
        })?;
        gone_is_fine(answer)
    }

    async fn remove_snapshot(&self, id: &str) -> Result<(), RuntimeCallFailed> {
        let request =
            RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: id.to_owned() };
        gone_is_fine(self.snapshots().remove(self.request(request)).await)
    }

    pub(super) async fn list_containers(&self) -> Result<Vec<FoundContainer>, RuntimeCallFailed> {
        let list = ListContainersRequest { filters: vec![ours_filter()] };
        let containers = self.container_service().list(self.request(list)).await;
        let containers = containers.map_err(failed)?.into_inner().containers;
        let tasks = self.tasks().list(self.request(ListTasksRequest::default())).await;
        let tasks = tasks.map_err(failed)?.into_inner().tasks;
        // The list names a task by its own id; `container_id` is empty in some releases.
        let tasks: HashMap<String, Process> =
            tasks.into_iter().map(|task| (task.id.clone(), task)).collect();
        let mut all: Vec<FoundContainer> = containers
            .into_iter()
            .filter_map(|container| {
                let task = tasks.get(&container.id);
                found(container, task)
            })
            .collect();
        let prepared = self.list_prepared().await?;
        let known: HashSet<String> = all.iter().map(|found| found.id.clone()).collect();
        all.extend(prepared.into_iter().filter(|found| !known.contains(&found.id)));
        Ok(all)
    }

    /// Containers of which there is a root file system, made or not.
    async fn list_prepared(&self) -> Result<Vec<FoundContainer>, RuntimeCallFailed> {
        let list = ListSnapshotsRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            filters: vec![ours_filter()],
        };
        let listed = self.snapshots().list(self.request(list)).await;
        let mut parts = listed.map_err(failed)?.into_inner();
        let mut all = Vec::new();
        while let Some(part) = parts.message().await.map_err(failed)? {
            all.extend(part.info.into_iter().filter_map(prepared));
        }
        Ok(all)
    }
}

fn found(container: Container, task: Option<&Process>) -> Option<FoundContainer> {
    let labels: Labels = container.labels.into_iter().collect();
    let (key, image_id) = ContainerKey::from_labels(&labels)?;
    let state = match (end_from_labels(&labels), task) {
        (Some(end), _) => FoundState::Settled(end),
        (None, None) => FoundState::Created,
        (None, Some(task)) => match task.status() {
            TaskStatus::Created => FoundState::Created,
            TaskStatus::Stopped => FoundState::Stopped(exit(task.exit_status, task.exited_at)),
            // Unknown: the shim does not answer at the moment; waiting for it will tell.
            TaskStatus::Unknown
            | TaskStatus::Running
            | TaskStatus::Paused
            | TaskStatus::Pausing => FoundState::Running,
        },
    };
    let created_at = timestamp(container.created_at).unwrap_or_else(Timestamp::now);
    Some(FoundContainer { id: container.id, key, image_id, created_at, state })
}

fn prepared(snapshot: SnapshotInfo) -> Option<FoundContainer> {
    let labels: Labels = snapshot.labels.into_iter().collect();
    let (key, image_id) = ContainerKey::from_labels(&labels)?;
    let created_at = timestamp(snapshot.created_at).unwrap_or_else(Timestamp::now);
    Some(FoundContainer {
        id: snapshot.name,
        key,
        image_id,
        created_at,
        state: FoundState::Created,
    })
}

fn exit(status: u32, at: Option<prost_types::Timestamp>) -> Exit {
    let code = i32::try_from(status).unwrap_or(255);
    Exit { code, at: timestamp(at).unwrap_or_else(Timestamp::now) }
}

fn wire_mount(mount: &RootfsMount) -> Mount {
    Mount {
        r#type: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

/// The read-only layers of an overlay mount, uppermost first, as the kernel lists them.
fn lower_dirs(mount: &Mount) -> Vec<std::path::PathBuf> {
    mount
        .options
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="))
        .map(|dirs| dirs.split(':').map(Into::into).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_from_the_overlay_options() {
        let mount = Mount {
            r#type: "overlay".into(),
            options: vec!["workdir=/w".into(), "upperdir=/u".into(), "lowerdir=/b:/a".into()],
            ..Default::default()
        };
        assert_eq!(lower_dirs(&mount), ["/b", "/a"].map(std::path::PathBuf::from));
        assert!(lower_dirs(&Mount::default()).is_empty());
    }
}
