"""What a training run is made of; `bcos_zoo.train` puts it together."""
