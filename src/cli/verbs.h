// SPDX-License-Identifier: Apache-2.0
// Every verb: its exit code, or an error that run_program() prints.
#pragma once

#include "cli/context.h"

namespace shale::cli {

Result<int> run(Context &context, const InfoArgs &args);
Result<int> run(Context &context, const DriversArgs &args);
Result<int> run(Context &context, const VersionArgs &args);
Result<int> run(Context &context, const ImageImportArgs &args);
Result<int> run(Context &context, const ImageLsArgs &args);
Result<int> run(Context &context, const ImageInspectArgs &args);
Result<int> run(Context &context, const ImageTagArgs &args);
Result<int> run(Context &context, const ImageExportArgs &args);
Result<int> run(Context &context, const ImageRmArgs &args);
Result<int> run(Context &context, const LayerLsArgs &args);
Result<int> run(Context &context, const LayerInspectArgs &args);
Result<int> run(Context &context, const LayerExportArgs &args);
Result<int> run(Context &context, const ContainerCreateArgs &args);
Result<int> run(Context &context, const ContainerMountArgs &args);
Result<int> run(Context &context, const ContainerUnmountArgs &args);
Result<int> run(Context &context, const ContainerLsArgs &args);
Result<int> run(Context &context, const ContainerInspectArgs &args);
Result<int> run(Context &context, const ContainerDiffArgs &args);
Result<int> run(Context &context, const ContainerCommitArgs &args);
Result<int> run(Context &context, const ContainerExportArgs &args);
Result<int> run(Context &context, const ContainerRmArgs &args);
Result<int> run(Context &context, const RunArgs &args);
Result<int> run(Context &context, const UnshareArgs &args);
Result<int> run(Context &context, const GcArgs &args);
Result<int> run(Context &context, const DfArgs &args);
Result<int> run(Context &context, const CheckArgs &args);
Result<int> run(Context &context, const MigrateArgs &args);
Result<int> run(Context &context, const LeaseCreateArgs &args);
Result<int> run(Context &context, const LeaseLsArgs &args);
Result<int> run(Context &context, const LeaseRmArgs &args);
Result<int> run(Context &context, const ConfigShowArgs &args);
Result<int> run(Context &context, const ContainerdConfigArgs &args);
Result<int> run(Context &context, const FactsArgs &args);
Result<int> run(Context &context, const DoctorArgs &args);
Result<int> run(Context &context, const OrphansLsArgs &args);
Result<int> run(Context &context, const OrphansReclaimArgs &args);
Result<int> run(Context &context, const OrphansTrashArgs &args);
Result<int> run(Context &context, const OrphansUndoArgs &args);
Result<int> run(Context &context, const OrphansPurgeArgs &args);

Result<int> run(Context &context, const CacheTopArgs &args);
Result<int> run(Context &context, const CacheEvictArgs &args);
Result<int> run(Context &context, const GuardArgs &args);
Result<int> run(Context &context, const GuardEventsArgs &args);
Result<int> run(Context &context, const WatchArgs &args);
Result<int> run(Context &context, const LabLsArgs &args);
Result<int> run(Context &context, const LabShowArgs &args);
Result<int> run(Context &context, const LabRunArgs &args);
Result<int> run(Context &context, const LabReportArgs &args);
/// `shale df --host`
Result<int> run_df_host(Context &context, const HostArgs &args);

/// A layer as a JSON object.
void write_layer(Json &json, const store::LayerInfo &layer);
/// The whole of one image: its "layers" too.
void write_image(Json &json, const store::ImageInfo &image);

} // namespace shale::cli
