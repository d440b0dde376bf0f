-- State of the embedded PanDA server. The columns of tasks, jobs and files are the keys, in their order, of what
-- the server answers about them; defaults are what a real server stores where nothing else is known.

-- What task/submit stored (DEFT); JEDI makes a row of tasks from it when the registration window has passed.
CREATE TABLE IF NOT EXISTS submissions (
    jediTaskID INTEGER PRIMARY KEY AUTOINCREMENT, status DEFAULT 'waiting', submitTime UTC, vo, prodSourceLabel,
    userName, prodUserID, taskName, params, parent_tid
);
CREATE INDEX IF NOT EXISTS submissions_by_name ON submissions (taskName, userName);
CREATE INDEX IF NOT EXISTS submissions_waiting ON submissions (status) WHERE status = 'waiting';

-- The parameters as JEDI keeps them: completed when a task is refined, changed when it is run again. Those that were
-- submitted stay what they were.
CREATE TABLE IF NOT EXISTS refined_parameters (jediTaskID INTEGER PRIMARY KEY, params);

-- One pending command per task.
CREATE TABLE IF NOT EXISTS commands (jediTaskID INTEGER PRIMARY KEY, command, parameters, registeredTime UTC);

CREATE TABLE IF NOT EXISTS tasks (
    jediTaskID INTEGER PRIMARY KEY, taskName, status, userName, creationDate UTC, modificationTime UTC,
    startTime UTC, endTime UTC, frozenTime UTC, prodSourceLabel, workingGroup, vo, coreCount, taskType,
    processingType, taskPriority, currentPriority, architecture DEFAULT '{}',
    transUses, transHome, transPath, lockedBy, lockedTime UTC, termCondition, splitRule, walltime DEFAULT 0,
    walltimeUnit, outDiskCount DEFAULT 0, outDiskUnit, workDiskCount DEFAULT 0, workDiskUnit, ramCount,
    ramUnit, ioIntensity, ioIntensityUnit, workQueue_ID DEFAULT 3, progress, failureRate, errorDialog,
    reqID, oldStatus, cloud, site, countryGroup, parent_tid, eventService DEFAULT 0, ticketID,
    ticketSystemType, stateChangeTime UTC, superStatus DEFAULT 'registered', campaign, mergeRamCount,
    mergeRamUnit, mergeWalltime, mergeWalltimeUnit, throttledTime UTC, numThrottled, mergeCoreCount, goal,
    assessmentTime UTC, cpuTime, cpuTimeUnit, cpuEfficiency DEFAULT 90, baseWalltime DEFAULT 600, nucleus,
    baseRamCount DEFAULT 0, ttcRequested UTC, ttcPredicted UTC, ttcPredictionDate UTC, rescueTime UTC,
    requestType, gshare DEFAULT 'root', resource_type DEFAULT 'Undefined', useJumbo, diskIO, diskIOUnit,
    memory_leak_core, memory_leak_x2, attemptNr, container_name, framework, activatedTime UTC,
    queuedTime UTC, actionTime UTC
);
CREATE INDEX IF NOT EXISTS tasks_by_status ON tasks (status);
CREATE INDEX IF NOT EXISTS tasks_by_name ON tasks (taskName, userName);
CREATE INDEX IF NOT EXISTS tasks_by_user ON tasks (userName, prodSourceLabel, modificationTime);

CREATE TABLE IF NOT EXISTS datasets (
    datasetID INTEGER PRIMARY KEY AUTOINCREMENT, jediTaskID, datasetName, containerName, type, status,
    template, token, destination, offset DEFAULT 0, nextSN DEFAULT 1
);
CREATE INDEX IF NOT EXISTS datasets_by_task ON datasets (jediTaskID);
CREATE INDEX IF NOT EXISTS datasets_by_name ON datasets (datasetName);
CREATE INDEX IF NOT EXISTS datasets_by_container ON datasets (containerName);

-- Files of the datasets as JEDI keeps them: what is left to process and what was produced.
CREATE TABLE IF NOT EXISTS contents (
    fileID INTEGER PRIMARY KEY AUTOINCREMENT, jediTaskID, datasetID, position, lfn, status DEFAULT 'ready',
    attemptNr DEFAULT 0, maxAttempt, PandaID, fsize DEFAULT 0, checksum
);
CREATE INDEX IF NOT EXISTS contents_by_dataset ON contents (datasetID, status);
CREATE INDEX IF NOT EXISTS contents_by_task ON contents (jediTaskID, status);

CREATE TABLE IF NOT EXISTS jobs (
    PandaID INTEGER PRIMARY KEY AUTOINCREMENT, jobDefinitionID, schedulerID, pilotID, creationTime UTC, creationHost,
    modificationTime UTC, modificationHost, AtlasRelease DEFAULT '', transformation, homepackage,
    prodSeriesLabel DEFAULT 'pandatest', prodSourceLabel, prodUserID, assignedPriority, currentPriority,
    attemptNr, maxAttempt DEFAULT 3, jobStatus, jobName, maxCpuCount DEFAULT 345600, maxCpuUnit,
    maxDiskCount DEFAULT 300, maxDiskUnit DEFAULT 'MB  ', ipConnectivity DEFAULT 'yes  ',
    minRamCount DEFAULT 900, minRamUnit DEFAULT 'MB', startTime UTC, endTime UTC,
    cpuConsumptionTime DEFAULT 0, cpuConsumptionUnit DEFAULT 's', commandToPilot, transExitCode,
    pilotErrorCode DEFAULT 0, pilotErrorDiag, exeErrorCode DEFAULT 0, exeErrorDiag, supErrorCode DEFAULT 0,
    supErrorDiag, ddmErrorCode DEFAULT 0, ddmErrorDiag, brokerageErrorCode DEFAULT 0, brokerageErrorDiag,
    jobDispatcherErrorCode DEFAULT 0, jobDispatcherErrorDiag, taskBufferErrorCode DEFAULT 0,
    taskBufferErrorDiag, computingSite, computingElement, jobParameters, metadata, prodDBlock,
    dispatchDBlock, destinationDBlock, destinationSE, nEvents, grid, cloud, cpuConversion, sourceSite,
    destinationSite, transferType, taskID, cmtConfig DEFAULT '', stateChangeTime UTC, prodDBUpdateTime UTC,
    lockedby DEFAULT 'jedi', relocationFlag DEFAULT 1, jobExecutionID DEFAULT 0, VO, pilotTiming,
    workingGroup, processingType, prodUserName, nInputFiles, countryGroup, batchID, parentID,
    specialHandling, jobsetID, coreCount DEFAULT 1, nInputDataFiles, inputFileType, inputFileProject,
    inputFileBytes, nOutputDataFiles DEFAULT 0, outputFileBytes DEFAULT 0, jobMetrics,
    workQueue_ID DEFAULT 3, jediTaskID, jobSubStatus, actualCoreCount DEFAULT 1, reqID, maxRSS, maxVMEM,
    maxSWAP, maxPSS, avgRSS, avgVMEM, avgSWAP, avgPSS, maxWalltime DEFAULT 345600, nucleus, eventService,
    failedAttempt DEFAULT 0, hs06sec, gshare DEFAULT 'root', hs06, totRCHAR, totWCHAR, totRBYTES, totWBYTES,
    rateRCHAR, rateWCHAR, rateRBYTES, rateWBYTES, resource_type DEFAULT 'Undefined', diskIO, memory_leak,
    memory_leak_x2, container_name, job_label DEFAULT 'user', gco2_regional, gco2_global,
    cpu_architecture_level, outputFileType
);
CREATE INDEX IF NOT EXISTS jobs_by_task ON jobs (jediTaskID, jobStatus);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (jobStatus, currentPriority);

CREATE TABLE IF NOT EXISTS files (
    row_ID INTEGER PRIMARY KEY, PandaID, GUID, lfn, type, dataset, status DEFAULT 'unknown', prodDBlock,
    prodDBlockToken, dispatchDBlock, dispatchDBlockToken, destinationDBlock, destinationDBlockToken,
    destinationSE, fsize DEFAULT 0, md5sum, checksum, scope, jediTaskID, datasetID, fileID,
    attemptNr DEFAULT 0
);
CREATE INDEX IF NOT EXISTS files_by_job ON files (PandaID);

-- Uploaded files by owner, size and checksum, so that a sandbox need not be sent twice.
CREATE TABLE IF NOT EXISTS cache_files (
    userName, hostName, fileName, fileSize, checkSum, creationTime UTC, UNIQUE (hostName, fileName)
);
CREATE INDEX IF NOT EXISTS cache_files_by_user ON cache_files (userName, fileSize, checkSum);

CREATE TABLE IF NOT EXISTS secrets (owner, key, value, PRIMARY KEY (owner, key));

-- Workflows are kept and not carried out.
CREATE TABLE IF NOT EXISTS workflows (
    workflow_id INTEGER PRIMARY KEY AUTOINCREMENT, userName, prodSourceLabel, creationTime UTC, definition
);
