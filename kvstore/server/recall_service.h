// Recall: score, select, re-rank when asked to, locate, push. The unary and the streaming RPC share
// one function.
//
// A request is checked whole before anything moves. Then, on a recall thread: the context table
// scores and selects; each missing (block, layer) object is pinned once, its pages are checked, and
// all pages of the request travel in one transfer into the slots that the worker named. A page that
// cannot be had is reported with its reason, never skipped.
#pragma once

#include <string>

#include "kvstore/server/core.h"
#include "kvstore/server/recall_request.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

// Where the request's class has it wait: prefetch behind all that is not.
void RunOnRecallThread(Core& core, const varve::v1::RecallRequest& request, base::Task task);

// REQUIRES: request and reply live until answer ran. On failure the reply's content is unspecified.
void StartRecall(Core& core, const varve::v1::RecallRequest& request, varve::v1::RecallReply* reply,
                 Answer answer);

// The same of a request that was checked, on a recall thread. checked points into the request.
// Answers what its layers have left of their totals, when they have been selected; 0 when that
// failed.
uint64_t RunRecall(Core& core, absl::Time arrived, CheckedRecall checked,
                   const std::string& context_id, varve::v1::RecallReply* reply, Answer answer);

}  // namespace varve::server
