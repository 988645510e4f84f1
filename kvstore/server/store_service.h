// The gRPC front door: accepts calls on gRPC's threads and hands them to the services.
//
// Nothing here or below blocks a gRPC thread: work goes to the pools of Core, bytes to the
// transport.
#pragma once

#include <memory>

#include "kvstore/server/admin_service.h"
#include "kvstore/server/core.h"
#include "kvstore/server/tier_admin.h"
#include "varve/v1/store.grpc.pb.h"

namespace varve::server {

// All outlive every call of the service.
std::unique_ptr<varve::v1::Store::CallbackService> MakeStoreService(Core& core, AdminService& admin,
                                                                    TierAdmin& tiers);

}  // namespace varve::server
