#include "kvstore/transport/ucx_station.h"

#include "kvstore/base/status.h"

namespace varve::transport {

absl::StatusOr<std::unique_ptr<Station>> Station::Open(ucp_context_h context) {
  std::unique_ptr<Station> station(new Station);
  VARVE_ASSIGN_OR_RETURN(station->worker_, MakeUcxWorker(context));
  VARVE_ASSIGN_OR_RETURN(station->address_, UcxWorkerAddress(station->worker()));
  VARVE_RETURN_IF_ERROR(
      FromUcs(ucp_worker_get_efd(station->worker(), &station->event_fd_), "ucp_worker_get_efd"));
  return station;
}

}  // namespace varve::transport
