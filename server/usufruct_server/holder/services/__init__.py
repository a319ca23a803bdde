"""The gRPC faces of the data holder: catalogue, jobs, rounds, usage."""
