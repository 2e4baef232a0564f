"""What a training run is made of; `bcos_zoo.training.engine.train` puts it together."""
