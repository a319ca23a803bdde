"""CatalogueService: the public shop window. No authentication, no row."""

from __future__ import annotations

import grpc

from usufruct.domain.training_job import NoiseMode
from usufruct.errors import Refused
from usufruct.v1 import catalogue_pb2, catalogue_pb2_grpc
from usufruct_server.holder.catalogue import Catalogue


class CatalogueService(catalogue_pb2_grpc.CatalogueServiceServicer):
    """Serves the cards in the exact bytes whose hash is on chain."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        holder_id: int,
        chain_id: int,
        compute_access: str,
        noise_modes: tuple[NoiseMode, ...],
    ) -> None:
        self._catalogue = catalogue
        self._answer = catalogue_pb2.ListDatasetsResponse(
            holder_id=holder_id,
            chain_id=chain_id,
            compute_access=compute_access,
            datasets=[
                catalogue_pb2.DatasetSummary(
                    dataset_id=served.dataset_id,
                    name=served.card.card.name,
                    task=served.card.card.task,
                    card_hash=served.card.hash,
                    accepted_noise_modes=[catalogue_pb2.NoiseMode.Name(int(mode)) for mode in noise_modes],
                )
                for served in catalogue.all()
            ],
        )

    def ListDatasets(
        self, request: catalogue_pb2.ListDatasetsRequest, context: grpc.ServicerContext
    ) -> catalogue_pb2.ListDatasetsResponse:
        """Names the holder and its datasets."""
        return self._answer

    def GetDatasetCard(
        self, request: catalogue_pb2.GetDatasetCardRequest, context: grpc.ServicerContext
    ) -> catalogue_pb2.GetDatasetCardResponse:
        """One card, and what the holder publishes about the dataset."""
        served = self._catalogue.find(request.dataset_id)
        if served is None:
            raise Refused("no such dataset", reason="DATASET_UNKNOWN", dataset_id=request.dataset_id)
        return catalogue_pb2.GetDatasetCardResponse(card=served.card.canonical, policy=served.policy)
