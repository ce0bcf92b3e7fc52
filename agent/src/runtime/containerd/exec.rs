//! Commands run in a container: exec probes and lifecycle hooks. Their output is discarded.

use std::time::Duration;

use containerd_client::services::v1::{
    DeleteProcessRequest, ExecProcessRequest, GetContainerRequest, KillRequest, StartRequest,
    WaitRequest,
};
use oci_spec::runtime::Spec;
use prost_types::Any;

use super::super::{ExecOutcome, RuntimeCallFailed};
use super::{Containerd, failed, gone_is_fine};

const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const SIGKILL: u32 = 9;

impl Containerd {
    pub(super) async fn exec_in(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutcome, RuntimeCallFailed> {
        let exec_id = uuid::Uuid::new_v4().simple().to_string();
        let request = ExecProcessRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.clone(),
            spec: Some(self.process_like_main(id, command).await?),
            ..Default::default()
        };
        self.tasks().exec(self.request(request)).await.map_err(failed)?;
        let outcome = self.run_exec(id, &exec_id, limit).await;
        let delete = DeleteProcessRequest { container_id: id.to_owned(), exec_id };
        gone_is_fine(self.tasks().delete_process(self.request(delete)).await)?;
        outcome
    }

    async fn run_exec(
        &self,
        id: &str,
        exec_id: &str,
        limit: Duration,
    ) -> Result<ExecOutcome, RuntimeCallFailed> {
        let start = StartRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned() };
        self.tasks().start(self.request(start)).await.map_err(failed)?;
        let wait = WaitRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned() };
        let mut tasks = self.tasks();
        let ended = tasks.wait(self.lasting(wait.clone()));
        if let Ok(answer) = tokio::time::timeout(limit, ended).await {
            let status = answer.map_err(failed)?.into_inner().exit_status;
            return Ok(ExecOutcome::Exited(i32::try_from(status).unwrap_or(255)));
        }
        let kill = KillRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal: SIGKILL,
            all: false,
        };
        gone_is_fine(self.tasks().kill(self.request(kill)).await)?;
        gone_is_fine(self.tasks().wait(self.request(wait)).await)?;
        Ok(ExecOutcome::TimedOut)
    }

    /// The container's own process with another command: same user, environment and rights.
    async fn process_like_main(
        &self,
        id: &str,
        command: &[String],
    ) -> Result<Any, RuntimeCallFailed> {
        let get = GetContainerRequest { id: id.to_owned() };
        let found = self.container_service().get(self.request(get)).await.map_err(failed)?;
        let spec = found.into_inner().container.and_then(|container| container.spec);
        let spec = spec.map(|any| any.value).unwrap_or_default();
        let refused = |error: serde_json::Error| RuntimeCallFailed::Refused(error.to_string());
        let spec: Spec = serde_json::from_slice(&spec).map_err(refused)?;
        let mut process = spec.process().clone().unwrap_or_default();
        process.set_args(Some(command.to_vec()));
        process.set_terminal(Some(false));
        let value = serde_json::to_vec(&process).map_err(refused)?;
        Ok(Any { type_url: PROCESS_TYPE.to_owned(), value })
    }
}
